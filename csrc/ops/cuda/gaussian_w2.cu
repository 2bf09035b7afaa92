// gaussian_w2 on CUDA; the loop is row_map.cuh's.
#include "math/gaussian_w2.h"
#include "ops/cuda/row_map.cuh"

namespace dmrec::cuda {

int launch_gaussian_w2(bool squared, double eps, const RowJob& job, Stream stream) {
  return launch_rows(GaussianW2{squared, eps}, job, stream);
}

}  // namespace dmrec::cuda

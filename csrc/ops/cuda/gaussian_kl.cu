// gaussian_kl on CUDA: which functor; the loop is row_map.cuh's.
#include "math/gaussian_kl.h"
#include "ops/cuda/row_map.cuh"

namespace dmrec::cuda {

int launch_gaussian_kl(bool of_standard, const RowJob& job, Stream stream) {
  return of_standard ? launch_rows(StandardGaussianKl{}, job, stream) : launch_rows(GaussianKl{}, job, stream);
}

}  // namespace dmrec::cuda

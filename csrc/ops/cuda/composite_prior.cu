// composite_prior on CUDA: which divergence; the loop is row_map.cuh's.
#include "math/composite_prior.h"
#include "ops/cuda/row_map.cuh"

namespace dmrec::cuda {

int launch_composite_prior(Interpolation interpolation, double alpha, const RowJob& job, Stream stream) {
  return with_composite(interpolation, alpha, [&]<class D>(const D& divergence) {
    return launch_rows(OfPairs<D>{{}, divergence}, job, stream);
  });
}

}  // namespace dmrec::cuda

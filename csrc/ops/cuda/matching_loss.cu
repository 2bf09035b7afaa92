// matching_loss on CUDA: a whole strategy is one functor, so its forward is one pass over the four inputs and its
// backward another; the loop is row_map.cuh's.
#include "math/matching_loss.h"
#include "ops/cuda/row_map.cuh"

namespace dmrec::cuda {

int launch_matching_loss(const MatchingOptions& options, const RowJob& job, Stream stream) {
  return with_matching(options, [&](const auto& functor) { return launch_rows(functor, job, stream); });
}

}  // namespace dmrec::cuda

// Launchers of the row operators.
#pragma once

#include "math/composite_prior.h"
#include "math/matching_loss.h"
#include "ops/cuda/launch.h"

namespace dmrec::cuda {

// A row operator on (B, D) inputs: forward where `out` is set, else backward.
struct RowJob {
  static constexpr int most_inputs = 4;
  Type type;
  int64_t n_rows, width;
  const void* in[most_inputs];
  int64_t stride[most_inputs];
  bool aligned;  // all rows of inputs and gradients begin at multiples of 16 bytes
  void* out;     // (B,)
  void* saved;   // (B,): written by the forward where not null, read by the backward where the functor needs it
  const void* grad;
  int64_t grad_stride;
  void* gradients[most_inputs];  // contiguous; null where none is wanted
};

int launch_gaussian_kl(bool of_standard, const RowJob& job, Stream stream);
int launch_gaussian_w2(bool squared, double eps, const RowJob& job, Stream stream);
int launch_composite_prior(Interpolation interpolation, double alpha, const RowJob& job, Stream stream);
int launch_matching_loss(const MatchingOptions& options, const RowJob& job, Stream stream);

}  // namespace dmrec::cuda

// Launchers of the row operators.
#pragma once

#include "math/composite_prior.h"
#include "math/matching_loss.h"
#include "ops/cuda/launch.h"

namespace dmrec::cuda {

// What is done to the rows: a value of each; gradients for one incoming gradient each; or both, for a gradient that is
// the same for all.
enum class RowPass { forward, backward, both };

// A row operator on (B, D) inputs.
struct RowJob {
  static constexpr int most_inputs = 4;
  RowPass pass;
  Type type;
  int64_t n_rows, width;
  const void* in[most_inputs];
  int64_t stride[most_inputs];
  bool aligned;  // all rows of inputs and gradients begin at multiples of 16 bytes
  void* out;     // (B,); null where only `values` are wanted
  void* values;  // (B,) in the arithmetic type, or null
  void* saved;   // (B,): written by the forward where not null, read by the backward where the functor needs it
  const void* grad;
  int64_t grad_stride;
  double grad_of_all;
  void* gradients[most_inputs];  // contiguous; null where none is wanted
};

// scale * (the sum of n values of the arithmetic type), in an order that depends on n alone.
int launch_sum_of_rows(Type type, const void* values, int64_t n, double scale, void* out, Stream stream);

// Vectors of n elements, multiplied in place by a number unless it is 1, which only the device reads.
struct MultiplyJob {
  Type type;
  void* vectors[RowJob::most_inputs];
  int n_vectors;
  int64_t n;
  bool aligned;  // all begin at a multiple of 16 bytes
  const void* factor;
};
int launch_multiply_unless_one(const MultiplyJob& job, Stream stream);

int launch_gaussian_kl(bool of_standard, const RowJob& job, Stream stream);
int launch_gaussian_w2(bool squared, double eps, const RowJob& job, Stream stream);
int launch_composite_prior(Interpolation interpolation, double alpha, const RowJob& job, Stream stream);
int launch_matching_loss(const MatchingOptions& options, const RowJob& job, Stream stream);

}  // namespace dmrec::cuda

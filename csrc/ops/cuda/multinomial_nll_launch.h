// Launchers of multinomial_nll. `product`: the type of logits and their gradients, float32, float64 or bfloat16;
// everything else is in its arithmetic type (float32 for bfloat16), terms, their gradients and sums of targets in
// double.
#pragma once

#include "ops/cuda/launch.h"

namespace dmrec::cuda {

constexpr int64_t nll_chunk = 4096;  // columns of a row that are summed together; tiles hold whole chunks

struct NllTile {
  const void* logits;  // (B, count), rows `stride` apart: products of items from `first` on, without the bias
  int64_t stride;
  const void* bias;  // (count,)
  int64_t first, count;
  bool aligned, bias_aligned;
};
struct NllTargets {
  CsrIndices indices;
  const void* values;  // (nnz,), or null for ones
};
struct NllSums {  // (chunks of the tile, B), or (1, B)
  void *max, *sum;
  double* of_targets;
};
struct NllGradient {
  const double* grad;    // (2, B), of the log of the sum and of the targets
  const void* log_sums;  // (2, B)
};
int launch_nll_sums(Type product, const NllTile& tile, const NllTargets& x, const NllSums& parts, const NllSums& state,
                    Stream stream);
int launch_nll_terms(Type product, const NllTargets& x, const NllSums& state, double* terms, void* log_sums,
                     Stream stream);
int launch_nll_gradient(Type product, const NllTile& tile, const NllTargets& x, const NllGradient& of, void* out,
                        bool out_aligned, Stream stream);
int launch_nll_column_sums(Type product, const void* tile, int64_t n_rows, int64_t count, void* sums, Stream stream);
int launch_nll_add(Type type, void* sum, const void* part, int64_t count, Stream stream);  // float32 or float64

}  // namespace dmrec::cuda

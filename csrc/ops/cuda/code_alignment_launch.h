// Launchers of code_alignment. Everything is contiguous and of `type`, float32 or float64.
#pragma once

#include "ops/cuda/launch.h"

namespace dmrec::cuda {

struct AlignmentJob {
  Type type;
  bool forward, reverse, leave_one_out;
  const void *target, *prediction;  // (B, L, C)
  const void* weights;              // (L,), or null for ones
  int64_t n_rows, levels, codes;
  double log_rows, slope;
  void* row_sums;  // (4, B, L)
  void* columns;   // (4, L, C)
};
int launch_alignment_row_sums(const AlignmentJob& job, Stream stream);
int launch_alignment_columns(const AlignmentJob& job, Stream stream);
// gaps: (L, B) of scratch
int launch_alignment_losses(const AlignmentJob& job, void* gaps, void* delta, void* loss, Stream stream);

struct AlignmentGradientJob {
  const void *grad, *delta;       // (B,)
  void* of_delta;                 // (B,) of scratch
  void* of_columns;               // (2, L, C) of scratch; null where negatives are constants
  void *d_target, *d_prediction;  // (B, L, C), either may be null
};
int launch_alignment_gradient(const AlignmentJob& job, const AlignmentGradientJob& of, Stream stream);

}  // namespace dmrec::cuda

// Launchers of residual_quantize. Everything is contiguous and of `type`, float32 or float64; codes and rows int64.
#pragma once

#include "ops/cuda/launch.h"

namespace dmrec::cuda {

struct QuantizeJob {
  const void* x;          // (B, D)
  const void* codebooks;  // (L, C, D)
  int64_t n_rows, levels, codes, width;
  double beta;
};
struct QuantizeGradientJob {
  const void *of_quantized, *of_loss;  // (B, D) and (B,), either may be null
  const int64_t* codes;                // (B, L)
  const int64_t* code_begin;           // (L, C + 1)
  const int64_t* code_rows;            // (L, B)
  bool first_alone, full;              // which residuals count
};
// transposed: (L, D, C); left: (B, D) of scratch
int launch_quantize_rows(Type type, const QuantizeJob& job, const void* transposed, void* left, void* quantized,
                         void* loss, int64_t* codes, Stream stream);
int launch_quantize_gradient_of_rows(Type type, const QuantizeJob& job, const QuantizeGradientJob& of, void* out,
                                     Stream stream);
int launch_quantize_gradient_of_codes(Type type, const QuantizeJob& job, const QuantizeGradientJob& of, void* out,
                                      Stream stream);

}  // namespace dmrec::cuda

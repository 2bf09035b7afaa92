// Schema of residual_quantize: sums of code vectors (B, D), losses (B,) and codes (B, L) of x (B, D) on codebooks
// (L, C, D). `residual_gradient`: first, all, full. For the backward, `code_rows` (L, B) lists the rows of x by their
// code on a level, those of one code in order, and `code_begin` (L, C + 1) where each code's begin. `needed` has bits 0
// and 1 for the gradients of x and codebooks; the result lists just those, in order.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def("residual_quantize(Tensor x, Tensor codebooks, float beta, str residual_gradient) -> (Tensor, Tensor, Tensor)");
  m.def(
      "_residual_quantize_backward(Tensor? grad_quantized, Tensor? grad_loss, Tensor x, Tensor codebooks, Tensor "
      "codes, "
      "Tensor code_begin, Tensor code_rows, float beta, str residual_gradient, int needed) -> Tensor[]");
}

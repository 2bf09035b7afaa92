// Schema of multinomial_nll: for each row, -sum_i x_i log softmax(hidden weight^T + bias)_i with sparse x (B, N).
// Besides the losses it returns (2, B) the largest logit of each row and the log of its sum of exponentials above it
// and, with `save`, the logits, which spare the backward one product of three; without, they have no elements. `bf16`:
// products in bfloat16. `needed` has bits 0, 1, 2 for the gradients of hidden, weight, bias; the result lists just
// those, in order.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "multinomial_nll(Tensor hidden, Tensor weight, Tensor crow, Tensor col, Tensor? values, Tensor? bias, bool bf16, "
      "bool save) -> (Tensor, Tensor, Tensor)");
  m.def(
      "_multinomial_nll_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor crow, Tensor col, Tensor? values, "
      "Tensor? bias, bool bf16, Tensor log_sums, Tensor logits, int needed) -> Tensor[]");
}

// Schema of what multinomial_nll and multinomial_terms consist of. For each row of logits l = hidden weight^T + bias
// and of sparse x (B, N): S = log sum_i e^{l_i}, T = sum_i x_i l_i; the loss is X S - T with X = sum_i x_i. Results:
// terms (3, B) S, T, X in double; log_sums (2, B) the largest logit of each row and the log of its sum of exponentials
// above it; and, with `save`, the logits, which spare the backward one product of three; without, they have no
// elements. `bf16`: products in bfloat16. The backward takes the gradients of S and T, (2, B) in double, or of all
// terms. `needed` has bits 0, 1, 2 for the gradients of hidden, weight, bias; the result lists just those, in order.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "multinomial_terms(Tensor hidden, Tensor weight, Tensor crow, Tensor col, Tensor? values, Tensor? bias, bool "
      "bf16, bool save) -> (Tensor, Tensor, Tensor)");
  m.def(
      "_multinomial_terms_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor crow, Tensor col, Tensor? values, "
      "Tensor? bias, bool bf16, Tensor log_sums, Tensor logits, int needed) -> Tensor[]");
}

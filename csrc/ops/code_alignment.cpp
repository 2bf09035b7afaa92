// Schema of code_alignment: losses (B,) of logits (B, L, C). It also returns what the backward needs: row_sums (4, B,
// L), the largest logit of target and prediction and the log of the sum of exponentials above it; columns (4, L, C),
// see math/code_alignment.h; delta (B,); kept (2, B, L, C), the probabilities of target and prediction, or (0, B, L, C)
// where there is no use for them or `keep` is false. `needed` has bits 0 and 1 for the gradients of target and
// prediction; the result lists just those, in order.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "code_alignment(Tensor target, Tensor prediction, str direction, str negative, bool detach_negative, "
      "Tensor? level_weights, float slope, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "_code_alignment_backward(Tensor grad, Tensor target, Tensor prediction, Tensor row_sums, Tensor columns, "
      "Tensor delta, Tensor kept, str direction, str negative, bool detach_negative, Tensor? level_weights, float "
      "slope, int "
      "needed) "
      "-> Tensor[]");
}

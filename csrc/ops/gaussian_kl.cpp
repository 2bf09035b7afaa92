// Schema of gaussian_kl: one KL divergence per row (see math/gaussian_kl.h).
// `needed` has bit i set where the gradient of input i is wanted; the result lists just those, in order.
// _.._reduced gives `scale` times the sum over rows, and behind it those gradients of it.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def("gaussian_kl(Tensor mu_q, Tensor logvar_q, Tensor? mu_p=None, Tensor? logvar_p=None) -> Tensor");
  m.def(
      "_gaussian_kl_backward(Tensor grad, Tensor mu_q, Tensor logvar_q, Tensor? mu_p, Tensor? logvar_p, int needed) "
      "-> Tensor[]");
  m.def(
      "_gaussian_kl_reduced(Tensor mu_q, Tensor logvar_q, Tensor? mu_p, Tensor? logvar_p, float scale, int needed) "
      "-> Tensor[]");
}

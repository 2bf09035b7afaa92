// Schema of gaussian_w2: one 2-Wasserstein distance per row (see math/gaussian_w2.h).
// The backward takes the distances of the forward; `needed` as in gaussian_kl.cpp.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "gaussian_w2(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared=False, float eps=0.0) "
      "-> Tensor");
  m.def(
      "_gaussian_w2_backward(Tensor grad, Tensor value, Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, "
      "bool squared, float eps, int needed) -> Tensor[]");
}

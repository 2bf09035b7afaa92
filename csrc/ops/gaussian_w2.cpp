// Schema of gaussian_w2 (see math/gaussian_w2.h): one 2-Wasserstein distance per row, and the same once more in the
// arithmetic type, which the backward of the root takes (without elements if `squared`). `needed` as in
// gaussian_kl.cpp.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "gaussian_w2(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared=False, float eps=0.0) "
      "-> (Tensor, Tensor)");
  m.def(
      "_gaussian_w2_backward(Tensor grad, Tensor saved, Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, "
      "bool squared, float eps, int needed) -> Tensor[]");
  m.def(
      "_gaussian_w2_reduced(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared, float eps, "
      "float scale, int needed) -> Tensor[]");
}

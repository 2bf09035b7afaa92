// Schema of matching_loss (see math/matching_loss.h): the loss of each row, and the 2-Wasserstein distance of each row
// that the backward of "godm" needs (without elements for the other strategies). `needed` as in gaussian_kl.cpp.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "matching_loss(Tensor mu_c, Tensor logvar_c, Tensor mu_l, Tensor logvar_l, str strategy, float beta, "
      "float alpha=0.5, str interpolation=\"log_linear\", bool squared=False, float eps=0.0, str fusion=\"add\") "
      "-> (Tensor, Tensor)");
  m.def(
      "_matching_loss_backward(Tensor grad, Tensor distance, Tensor mu_c, Tensor logvar_c, Tensor mu_l, "
      "Tensor logvar_l, str strategy, float beta, float alpha, str interpolation, bool squared, float eps, str fusion, "
      "int needed) "
      "-> Tensor[]");
  m.def(
      "_matching_loss_reduced(Tensor mu_c, Tensor logvar_c, Tensor mu_l, Tensor logvar_l, int choices, float beta, "
      "float alpha, float eps, float scale, int needed) -> Tensor[]");
}

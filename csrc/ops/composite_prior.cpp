// Schema of composite_prior (see math/composite_prior.h); `needed` as in gaussian_kl.cpp.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "composite_prior(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, float alpha=0.5, "
      "str interpolation=\"log_linear\") -> Tensor");
  m.def(
      "_composite_prior_backward(Tensor grad, Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, float alpha, "
      "str interpolation, int needed) -> Tensor[]");
  m.def(
      "_composite_prior_reduced(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, float alpha, "
      "str interpolation, float scale, int needed) -> Tensor[]");
}

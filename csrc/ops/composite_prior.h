// Inputs of composite_prior as a list.
#pragma once

#include "ops/row_inputs.h"

namespace dmrec {

inline std::vector<Tensor> composite_prior_inputs(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p) {
  std::vector<Tensor> inputs{std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)};
  check_rows("composite_prior", inputs);
  return inputs;
}

}  // namespace dmrec

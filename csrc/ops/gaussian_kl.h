// Inputs of gaussian_kl as a list: mu_q, logvar_q and, unless p is the standard normal, mu_p, logvar_p.
#pragma once

#include "ops/row_inputs.h"

namespace dmrec {

inline std::vector<Tensor> gaussian_kl_inputs(Tensor mu_q, Tensor logvar_q, std::optional<Tensor> mu_p,
                                              std::optional<Tensor> logvar_p) {
  STD_TORCH_CHECK(mu_p.has_value() == logvar_p.has_value(), "gaussian_kl: give both mu_p and logvar_p, or neither");
  std::vector<Tensor> inputs{std::move(mu_q), std::move(logvar_q)};
  if (mu_p.has_value()) {
    inputs.push_back(std::move(*mu_p));
    inputs.push_back(std::move(*logvar_p));
  }
  check_rows("gaussian_kl", inputs);
  return inputs;
}

}  // namespace dmrec

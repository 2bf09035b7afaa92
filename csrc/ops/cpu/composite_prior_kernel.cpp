// composite_prior on the CPU; the loop is row_map.h's.
#include <torch/csrc/stable/library.h>

#include "math/composite_prior.h"
#include "ops/cpu/row_operator.h"

namespace dmrec::cpu {
namespace {

constexpr const char* op = "composite_prior";

CompositePrior functor(double alpha) {
  CompositePrior result;
  result.divergence.alpha = alpha;
  return result;
}

Tensor composite_prior(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, double alpha) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_forward(functor(alpha), std::move(rows));
}

std::vector<Tensor> composite_prior_backward(Tensor grad, Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p,
                                             double alpha, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_backward(op, functor(alpha), std::move(rows), grad, nullptr, needed);
}

}  // namespace
}  // namespace dmrec::cpu

STABLE_TORCH_LIBRARY_IMPL(dmrec_ext, CPU, m) {
  m.impl("composite_prior", TORCH_BOX(&dmrec::cpu::composite_prior));
  m.impl("_composite_prior_backward", TORCH_BOX(&dmrec::cpu::composite_prior_backward));
}

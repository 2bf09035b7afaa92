// composite_prior on the CPU; the loop is row_map.h's.
#include "ops/composite_prior.h"
#include "ops/cpu/row_operator.h"
#include "ops/library.h"

namespace dmrec::cpu {
namespace {

constexpr const char* op = "composite_prior";

Tensor composite_prior(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, double alpha,
                       std::string interpolation) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return with_composite(interpolation_of(op, interpolation), alpha, [&]<class D>(const D& divergence) {
    return row_forward(OfPairs<D>{{}, divergence}, std::move(rows));
  });
}

std::vector<Tensor> composite_prior_backward(Tensor grad, Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p,
                                             double alpha, std::string interpolation, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return with_composite(interpolation_of(op, interpolation), alpha, [&]<class D>(const D& divergence) {
    return row_backward(op, OfPairs<D>{{}, divergence}, std::move(rows), grad, nullptr, needed);
  });
}

std::vector<Tensor> composite_prior_reduced(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, double alpha,
                                            std::string interpolation, double scale, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return with_composite(interpolation_of(op, interpolation), alpha, [&]<class D>(const D& divergence) {
    return row_reduced(OfPairs<D>{{}, divergence}, std::move(rows), scale, needed);
  });
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("composite_prior", TORCH_BOX(&dmrec::cpu::composite_prior));
  m.impl("_composite_prior_backward", TORCH_BOX(&dmrec::cpu::composite_prior_backward));
  m.impl("_composite_prior_reduced", TORCH_BOX(&dmrec::cpu::composite_prior_reduced));
}

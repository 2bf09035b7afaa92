// matching_loss on the CPU; the loop is row_map.h's.
#include <tuple>

#include "math/matching_loss.h"
#include "ops/cpu/row_operator.h"
#include "ops/library.h"
#include "ops/matching_loss.h"

namespace dmrec::cpu {
namespace {

constexpr const char* op = "matching_loss";

std::tuple<Tensor, Tensor> matching_loss(Tensor mu_c, Tensor logvar_c, Tensor mu_l, Tensor logvar_l,
                                         std::string strategy, double beta, double alpha, std::string interpolation,
                                         bool squared, double eps, std::string fusion) {
  const auto options = matching_options(strategy, beta, alpha, interpolation, squared, eps, fusion);
  auto rows = checked_rows(op, {std::move(mu_c), std::move(logvar_c), std::move(mu_l), std::move(logvar_l)});
  const bool saves = saves_distance(options);
  Tensor distance = new_saved(rows[0], saves);
  Tensor loss = with_matching(
      options, [&](const auto& functor) { return row_forward(functor, std::move(rows), saves ? &distance : nullptr); });
  return {std::move(loss), std::move(distance)};
}

std::vector<Tensor> matching_loss_backward(Tensor grad, Tensor distance, Tensor mu_c, Tensor logvar_c, Tensor mu_l,
                                           Tensor logvar_l, std::string strategy, double beta, double alpha,
                                           std::string interpolation, bool squared, double eps, std::string fusion,
                                           int64_t needed) {
  const auto options = matching_options(strategy, beta, alpha, interpolation, squared, eps, fusion);
  auto rows = checked_rows(op, {std::move(mu_c), std::move(logvar_c), std::move(mu_l), std::move(logvar_l)});
  const Tensor* saved = saves_distance(options) ? &distance : nullptr;
  return with_matching(
      options, [&](const auto& functor) { return row_backward(op, functor, std::move(rows), grad, saved, needed); });
}

std::vector<Tensor> matching_loss_reduced(Tensor mu_c, Tensor logvar_c, Tensor mu_l, Tensor logvar_l, int64_t choices,
                                          double beta, double alpha, double eps, double scale, int64_t needed) {
  const auto options = matching_options(choices, beta, alpha, eps);
  auto rows = checked_rows(op, {std::move(mu_c), std::move(logvar_c), std::move(mu_l), std::move(logvar_l)});
  return with_matching(options,
                       [&](const auto& functor) { return row_reduced(functor, std::move(rows), scale, needed); });
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("matching_loss", TORCH_BOX(&dmrec::cpu::matching_loss));
  m.impl("_matching_loss_backward", TORCH_BOX(&dmrec::cpu::matching_loss_backward));
  m.impl("_matching_loss_reduced", TORCH_BOX(&dmrec::cpu::matching_loss_reduced));
}

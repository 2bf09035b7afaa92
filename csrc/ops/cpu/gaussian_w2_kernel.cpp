// gaussian_w2 on the CPU; the loop is row_map.h's.
#include <tuple>

#include "math/gaussian_w2.h"
#include "ops/cpu/row_operator.h"
#include "ops/library.h"

namespace dmrec::cpu {
namespace {

constexpr const char* op = "gaussian_w2";

std::tuple<Tensor, Tensor> gaussian_w2(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared,
                                       double eps) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  Tensor saved = new_saved(rows[0], !squared);
  Tensor distance = row_forward(GaussianW2{squared, eps}, std::move(rows), squared ? nullptr : &saved);
  return {std::move(distance), std::move(saved)};
}

std::vector<Tensor> gaussian_w2_backward(Tensor grad, Tensor saved, Tensor mu_q, Tensor logvar_q, Tensor mu_p,
                                         Tensor logvar_p, bool squared, double eps, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_backward(op, GaussianW2{squared, eps}, std::move(rows), grad, squared ? nullptr : &saved, needed);
}

std::vector<Tensor> gaussian_w2_reduced(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared,
                                        double eps, double scale, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_reduced(GaussianW2{squared, eps}, std::move(rows), scale, needed);
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("gaussian_w2", TORCH_BOX(&dmrec::cpu::gaussian_w2));
  m.impl("_gaussian_w2_backward", TORCH_BOX(&dmrec::cpu::gaussian_w2_backward));
  m.impl("_gaussian_w2_reduced", TORCH_BOX(&dmrec::cpu::gaussian_w2_reduced));
}

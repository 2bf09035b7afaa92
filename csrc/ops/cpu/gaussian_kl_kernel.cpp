// gaussian_kl on the CPU: dispatch on whether p is the standard normal; the loop is row_map.h's.
#include "math/gaussian_kl.h"
#include "ops/cpu/row_operator.h"
#include "ops/gaussian_kl.h"
#include "ops/library.h"

namespace dmrec::cpu {
namespace {

Tensor gaussian_kl(Tensor mu_q, Tensor logvar_q, std::optional<Tensor> mu_p, std::optional<Tensor> logvar_p) {
  auto rows = gaussian_kl_inputs(std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p));
  return rows.size() == 2 ? row_forward(StandardGaussianKl{}, std::move(rows))
                          : row_forward(GaussianKl{}, std::move(rows));
}

std::vector<Tensor> gaussian_kl_backward(Tensor grad, Tensor mu_q, Tensor logvar_q, std::optional<Tensor> mu_p,
                                         std::optional<Tensor> logvar_p, int64_t needed) {
  auto rows = gaussian_kl_inputs(std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p));
  return rows.size() == 2 ? row_backward("gaussian_kl", StandardGaussianKl{}, std::move(rows), grad, nullptr, needed)
                          : row_backward("gaussian_kl", GaussianKl{}, std::move(rows), grad, nullptr, needed);
}

std::vector<Tensor> gaussian_kl_reduced(Tensor mu_q, Tensor logvar_q, std::optional<Tensor> mu_p,
                                        std::optional<Tensor> logvar_p, double scale, int64_t needed) {
  auto rows = gaussian_kl_inputs(std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p));
  return rows.size() == 2 ? row_reduced(StandardGaussianKl{}, std::move(rows), scale, needed)
                          : row_reduced(GaussianKl{}, std::move(rows), scale, needed);
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("gaussian_kl", TORCH_BOX(&dmrec::cpu::gaussian_kl));
  m.impl("_gaussian_kl_backward", TORCH_BOX(&dmrec::cpu::gaussian_kl_backward));
  m.impl("_gaussian_kl_reduced", TORCH_BOX(&dmrec::cpu::gaussian_kl_reduced));
}

// gaussian_kl on CUDA: from tensors to its launcher.
#include "ops/cuda/row_operator.h"
#include "ops/gaussian_kl.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "gaussian_kl";

auto launcher(const std::vector<Tensor>& rows) {
  return [of_standard = rows.size() == 2](const RowJob& job, Stream stream) {
    return launch_gaussian_kl(of_standard, job, stream);
  };
}

Tensor gaussian_kl(Tensor mu_q, Tensor logvar_q, std::optional<Tensor> mu_p, std::optional<Tensor> logvar_p) {
  auto rows = gaussian_kl_inputs(std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p));
  const auto launch = launcher(rows);
  return row_forward(op, std::move(rows), nullptr, launch);
}

std::vector<Tensor> gaussian_kl_backward(Tensor grad, Tensor mu_q, Tensor logvar_q, std::optional<Tensor> mu_p,
                                         std::optional<Tensor> logvar_p, int64_t needed) {
  auto rows = gaussian_kl_inputs(std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p));
  const auto launch = launcher(rows);
  return row_backward(op, std::move(rows), grad, nullptr, needed, launch);
}

std::vector<Tensor> gaussian_kl_reduced(Tensor mu_q, Tensor logvar_q, std::optional<Tensor> mu_p,
                                        std::optional<Tensor> logvar_p, double scale, int64_t needed) {
  auto rows = gaussian_kl_inputs(std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p));
  const auto launch = launcher(rows);
  return row_reduced(op, std::move(rows), scale, needed, launch);
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("gaussian_kl", TORCH_BOX(&dmrec::cuda::gaussian_kl));
  m.impl("_gaussian_kl_backward", TORCH_BOX(&dmrec::cuda::gaussian_kl_backward));
  m.impl("_gaussian_kl_reduced", TORCH_BOX(&dmrec::cuda::gaussian_kl_reduced));
}

// composite_prior on CUDA: from tensors to its launcher.
#include "ops/composite_prior.h"
#include "ops/cuda/row_operator.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "composite_prior";

auto launcher(double alpha, const std::string& name) {
  return [alpha, interpolation = interpolation_of(op, name)](const RowJob& job, Stream stream) {
    return launch_composite_prior(interpolation, alpha, job, stream);
  };
}

Tensor composite_prior(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, double alpha,
                       std::string interpolation) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_forward(op, std::move(rows), nullptr, launcher(alpha, interpolation));
}

std::vector<Tensor> composite_prior_backward(Tensor grad, Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p,
                                             double alpha, std::string interpolation, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_backward(op, std::move(rows), grad, nullptr, needed, launcher(alpha, interpolation));
}

std::vector<Tensor> composite_prior_reduced(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, double alpha,
                                            std::string interpolation, double scale, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_reduced(op, std::move(rows), scale, needed, launcher(alpha, interpolation));
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("composite_prior", TORCH_BOX(&dmrec::cuda::composite_prior));
  m.impl("_composite_prior_backward", TORCH_BOX(&dmrec::cuda::composite_prior_backward));
  m.impl("_composite_prior_reduced", TORCH_BOX(&dmrec::cuda::composite_prior_reduced));
}

// gaussian_w2 on CUDA: from tensors to its launcher.
#include "ops/cuda/row_operator.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "gaussian_w2";

auto launcher(bool squared, double eps) {
  return [=](const RowJob& job, Stream stream) { return launch_gaussian_w2(squared, eps, job, stream); };
}

Tensor gaussian_w2(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared, double eps) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_forward(op, std::move(rows), nullptr, launcher(squared, eps));
}

std::vector<Tensor> gaussian_w2_backward(Tensor grad, Tensor value, Tensor mu_q, Tensor logvar_q, Tensor mu_p,
                                         Tensor logvar_p, bool squared, double eps, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_backward(op, std::move(rows), grad, &value, needed, launcher(squared, eps));
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("gaussian_w2", TORCH_BOX(&dmrec::cuda::gaussian_w2));
  m.impl("_gaussian_w2_backward", TORCH_BOX(&dmrec::cuda::gaussian_w2_backward));
}

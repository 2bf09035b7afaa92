// gaussian_w2 on CUDA: from tensors to its launcher.
#include <tuple>

#include "ops/cuda/row_operator.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "gaussian_w2";

auto launcher(bool squared, double eps) {
  return [=](const RowJob& job, Stream stream) { return launch_gaussian_w2(squared, eps, job, stream); };
}

std::tuple<Tensor, Tensor> gaussian_w2(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared,
                                       double eps) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  Tensor saved = new_saved(rows[0], !squared);
  Tensor distance = row_forward(op, std::move(rows), squared ? nullptr : &saved, launcher(squared, eps));
  return {std::move(distance), std::move(saved)};
}

std::vector<Tensor> gaussian_w2_backward(Tensor grad, Tensor saved, Tensor mu_q, Tensor logvar_q, Tensor mu_p,
                                         Tensor logvar_p, bool squared, double eps, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_backward(op, std::move(rows), grad, squared ? nullptr : &saved, needed, launcher(squared, eps));
}

std::vector<Tensor> gaussian_w2_reduced(Tensor mu_q, Tensor logvar_q, Tensor mu_p, Tensor logvar_p, bool squared,
                                        double eps, double scale, int64_t needed) {
  auto rows = checked_rows(op, {std::move(mu_q), std::move(logvar_q), std::move(mu_p), std::move(logvar_p)});
  return row_reduced(op, std::move(rows), scale, needed, launcher(squared, eps));
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("gaussian_w2", TORCH_BOX(&dmrec::cuda::gaussian_w2));
  m.impl("_gaussian_w2_backward", TORCH_BOX(&dmrec::cuda::gaussian_w2_backward));
  m.impl("_gaussian_w2_reduced", TORCH_BOX(&dmrec::cuda::gaussian_w2_reduced));
}

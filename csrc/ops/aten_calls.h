// Matrix products through torch's dispatcher: the stable ABI has no out variants of its own.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>

namespace dmrec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// out = a @ b, for matrices of one dtype; out of the right shape is written in place
inline void mm_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

inline Tensor in_type(Tensor matrix, ScalarType type) {
  return matrix.scalar_type() == type ? matrix : torch::stable::to(matrix, type);
}

inline Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

inline Tensor row_range(const Tensor& matrix, int64_t first, int64_t count) {
  Tensor whole = matrix;
  return torch::stable::narrow(whole, 0, first, count);
}

}  // namespace dmrec

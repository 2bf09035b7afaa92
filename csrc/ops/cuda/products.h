// Matrix products on CUDA, through torch.
#pragma once

#include "ops/aten_calls.h"
#include "ops/cuda/binding.h"

namespace dmrec::cuda {

// A float32 product of bfloat16 matrices: nothing on the way is rounded to bfloat16.
inline void mm_of_bf16_out(const Tensor& out, const Tensor& a, const Tensor& b) {
#if defined(DMREC_EMULATED)
  mm_out(out, in_type(a, ScalarType::Float), in_type(b, ScalarType::Float));  // the CPU has no such product
#else
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(a), from(b), from(ScalarType::Float), from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "dtype_out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
#endif
}

}  // namespace dmrec::cuda

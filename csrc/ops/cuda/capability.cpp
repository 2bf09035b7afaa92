// Tells why kernels cannot run on a device: compiled for others, or a driver that is too old. Empty where they can.
#include <string>

#include "ops/cuda/binding.h"

namespace dmrec::cuda {
namespace {

std::string cuda_problem([[maybe_unused]] int64_t device) {
#if !defined(DMREC_EMULATED)
  const torch::stable::accelerator::DeviceGuard guard(static_cast<int32_t>(device));
#endif
  const int code = kernels_run();
  return code == 0 ? "" : error_text(code);
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_SCHEMAS(m) { m.def("_cuda_problem(int device) -> str"); }

DMREC_KERNELS(CompositeExplicitAutograd, m) { m.impl("_cuda_problem", TORCH_BOX(&dmrec::cuda::cuda_problem)); }

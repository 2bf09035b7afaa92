// The text of CUDA's error codes, for the bindings.
#include "ops/cuda/device.h"

namespace dmrec::cuda {

const char* error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace dmrec::cuda

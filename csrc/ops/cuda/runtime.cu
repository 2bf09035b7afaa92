// What the bindings ask of CUDA's runtime.
#include "ops/cuda/device.h"

namespace dmrec::cuda {

const char* error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

__global__ static void nothing() {}

int kernels_run() {
  cudaFuncAttributes attributes;
  const cudaError_t code = cudaFuncGetAttributes(&attributes, nothing);
  (void)cudaGetLastError();  // reported by the code; another caller must not find it
  return static_cast<int>(code);
}

}  // namespace dmrec::cuda

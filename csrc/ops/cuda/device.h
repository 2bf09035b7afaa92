// What the source of a kernel includes: CUDA under nvcc; under g++ an emulator that offers the same names and runs the
// kernel thread by thread (tests/simt). Nothing here or in a kernel knows torch.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define DMREC_SHARED(T, name, count) __shared__ T name[count]
#define DMREC_UNROLL _Pragma("unroll")
#else
#include "simt.h"
#define DMREC_SHARED(T, name, count) SIMT_SHARED(T, name, count)
#define DMREC_UNROLL
#endif

#include "ops/cuda/launch.h"

namespace dmrec::cuda {

constexpr unsigned whole_warp = 0xffffffffu;
constexpr int warp_size = 32;

// kernel(args...) on a stream; CUDA's error code of this launch: an error that another caller left pending is not taken
// for one. The name is for the emulator's reports.
template <class... Parameters, class... Arguments>
int launch([[maybe_unused]] const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream stream,
           Arguments... arguments) {
#if defined(__CUDACC__)
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (code != cudaSuccess) (void)cudaGetLastError();  // reported by the code; another caller must not find it
  return static_cast<int>(code);
#else
  (void)stream;
  return simt::launch(name, kernel, grid, block, 0, arguments...);
#endif
}

// how many blocks of `each` cover `count`
constexpr int64_t blocks_for(int64_t count, int64_t each) { return (count + each - 1) / each; }

// Sizes of a grid. What CUDA does not allow becomes 0, which it refuses (invalid configuration): nothing is cut off.
constexpr unsigned grid_x(int64_t blocks) { return blocks < int64_t{1} << 31 ? static_cast<unsigned>(blocks) : 0; }
constexpr unsigned grid_y(int64_t blocks) { return blocks < int64_t{1} << 16 ? static_cast<unsigned>(blocks) : 0; }

}  // namespace dmrec::cuda

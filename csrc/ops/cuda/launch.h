// What all bindings (g++, torch's stable ABI) and launchers (nvcc, raw pointers) share: plain C++, neither torch nor
// CUDA. The launchers of an operator are declared in <operator>_launch.h. Every launcher returns CUDA's error code, 0
// for success. All matrices are row-major; strides in elements.
#pragma once

#include <cstdint>

namespace dmrec::cuda {

using Stream = void*;  // cudaStream_t

enum class Type { float32, float64, float16, bfloat16 };

// A sparse (B, N) matrix; contiguous vectors of offsets and columns.
struct CsrIndices {
  const int64_t* crow;
  const int64_t* col;
  int64_t n_rows, nnz, n_cols;
};

const char* error_text(int code);
int kernels_run();  // whether the current device and driver take what was compiled: an error code

}  // namespace dmrec::cuda

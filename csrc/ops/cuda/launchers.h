// What the bindings (g++, torch's stable ABI) call of the launchers (nvcc, raw pointers): plain C++, neither torch nor
// CUDA. Every launcher returns CUDA's error code, 0 for success. All matrices are row-major; strides in elements.
#pragma once

#include <cstdint>

#include "math/composite_prior.h"
#include "math/matching_loss.h"

namespace dmrec::cuda {

using Stream = void*;  // cudaStream_t

enum class Type { float32, float64, float16, bfloat16 };

const char* error_text(int code);

// A row operator on (B, D) inputs: forward where `out` is set, else backward.
struct RowJob {
  static constexpr int most_inputs = 4;
  Type type;
  int64_t n_rows, width;
  const void* in[most_inputs];
  int64_t stride[most_inputs];
  bool aligned;  // all rows of inputs and gradients begin at multiples of 16 bytes
  void* out;     // (B,)
  void* kept;    // (B,): written by the forward where not null, read by the backward where the functor needs it
  const void* grad;
  int64_t grad_stride;
  void* gradients[most_inputs];  // contiguous; null where none is wanted
};

int launch_gaussian_kl(bool of_standard, const RowJob& job, Stream stream);
int launch_gaussian_w2(bool squared, double eps, const RowJob& job, Stream stream);
int launch_composite_prior(Interpolation interpolation, double alpha, const RowJob& job, Stream stream);
int launch_matching_loss(const MatchingOptions& options, const RowJob& job, Stream stream);

// A sparse (B, N) matrix; contiguous vectors of offsets and columns.
struct CsrIndices {
  const int64_t* crow;
  const int64_t* col;
  int64_t n_rows, nnz, n_cols;
};

struct CsrSumJob {
  Type type;
  CsrIndices indices;
  const void* values;  // (nnz,), or null for ones
  const void* dense;   // (N, E)
  int64_t dense_stride;
  const void* bias;  // (B, E), stride 0 for one row; null for none
  int64_t bias_stride;
  void* out;  // (B, E), contiguous
  int64_t width;
  bool aligned;
};
int launch_csr_sum(const CsrSumJob& job, Stream stream);

struct CsrDotJob {
  Type type;
  CsrIndices indices;
  const void* rows;  // (B, E)
  int64_t rows_stride;
  const void* dense;  // (N, E)
  int64_t dense_stride;
  void* out;  // (nnz,)
  int64_t width;
  bool aligned;
};
int launch_csr_dot(const CsrDotJob& job, Stream stream);

// sorted: the columns, ascending; entry: where each of them stood. Fills t_crow (N + 1) and t_col (nnz).
int launch_transposed(const CsrIndices& indices, const int64_t* sorted, const int64_t* entry, int64_t* t_crow,
                      int64_t* t_col, Stream stream);

}  // namespace dmrec::cuda

// Launchers of csr_aggregate.
#pragma once

#include "ops/cuda/launch.h"

namespace dmrec::cuda {

struct CsrSumJob {
  Type type;    // of dense
  Type result;  // of all else: the same, or float32 where dense has 16 bits
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
  Type type;    // of dense
  Type result;  // of rows and out: the same, or float32 where dense has 16 bits
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

// sorted: the columns, ascending; entry: where each of them was. Fills t_crow (N + 1) and t_col (nnz).
int launch_transposed(const CsrIndices& indices, const int64_t* sorted, const int64_t* entry, int64_t* t_crow,
                      int64_t* t_col, Stream stream);

}  // namespace dmrec::cuda

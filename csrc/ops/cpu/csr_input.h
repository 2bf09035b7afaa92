// From CSR tensors to rows that loops may follow: the ranges of offsets and columns are checked here.
#pragma once

#include "ops/cpu/target.h"
#include "ops/csr_input.h"

namespace dmrec::cpu {

// A (B, N) matrix whose offsets and columns are known to be in range.
struct CsrRows {
  const int64_t* crow;
  const int64_t* col;
  int64_t n_rows, nnz;

  // Rows and entries count alike as work: row b begins at crow[b] + b. Each row belongs to the part it begins in.
  int64_t work() const { return nnz + n_rows; }
  int64_t row_from(int64_t work) const {
    int64_t low = 0, high = n_rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (crow[middle] + middle < work) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

inline const int64_t* indices(const Tensor& tensor) { return static_cast<const int64_t*>(tensor.const_data_ptr()); }

// Without branches, so that they vectorise: whatever is out of range sets the sign bit.
inline bool sign_bit(uint64_t faults) { return faults >> 63 != 0; }

DMREC_CLONES inline bool offsets_in_range(const CsrRows& x) {
  const auto* crow = reinterpret_cast<const uint64_t*>(x.crow);
  const auto nnz = static_cast<uint64_t>(x.nnz);
  uint64_t faults = 0;
  for (int64_t b = 0; b < x.n_rows; ++b) faults |= crow[b] | (nnz - crow[b]) | (crow[b + 1] - crow[b]);
  return !sign_bit(faults) && x.crow[0] == 0 && x.crow[x.n_rows] == x.nnz;
}

DMREC_CLONES inline bool columns_in_range(const CsrRows& x, int64_t n_cols) {
  const auto* col = reinterpret_cast<const uint64_t*>(x.col);
  const auto last = static_cast<uint64_t>(n_cols) - 1;
  uint64_t faults = 0;
  for (int64_t e = 0; e < x.nnz; ++e) faults |= col[e] | (last - col[e]);
  return n_cols >= 0 && !sign_bit(faults);
}

// Of columns in range: how many do not lie above the one before.
DMREC_CLONES inline uint64_t columns_not_above(const uint64_t* col, int64_t nnz) {
  uint64_t count = 0;
  for (int64_t e = 1; e < nnz; ++e) count += (col[e] - col[e - 1] - 1) >> 63;
  return count;
}

// They may not do so where a row begins, and nowhere else.
inline bool columns_rise(const CsrRows& x) {
  const auto* col = reinterpret_cast<const uint64_t*>(x.col);
  uint64_t allowed = 0;
  for (int64_t b = 0; b < x.n_rows; ++b) {
    const int64_t e = x.crow[b];
    if (e > 0 && e < x.crow[b + 1]) allowed += (col[e] - col[e - 1] - 1) >> 63;
  }
  return columns_not_above(col, x.nnz) == allowed;
}

inline CsrRows unchecked(const CsrInput& x) { return {indices(x.crow), indices(x.col), x.n_rows(), x.nnz()}; }

inline CsrRows checked(const char* op, const CsrInput& x, int64_t n_cols) {
  const CsrRows rows = unchecked(x);
  STD_TORCH_CHECK(offsets_in_range(rows), op, ": crow must rise from 0 to the number of columns stored");
  STD_TORCH_CHECK(columns_in_range(rows, n_cols), op, ": col must lie in [0, ", n_cols, ")");
  return rows;
}

// The same, with columns that rise within each row.
inline CsrRows sorted_rows(const char* op, const CsrInput& x, int64_t n_cols) {
  const CsrRows rows = checked(op, x, n_cols);
  STD_TORCH_CHECK(columns_rise(rows), op, ": col must rise within each row");
  return rows;
}

}  // namespace dmrec::cpu

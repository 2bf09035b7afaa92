// Offsets and columns of a sparse matrix for kernels. They come from the caller and cannot be checked without waiting
// for the GPU: they are clamped to the range that memory allows. Wrong ones give wrong numbers, not wrong accesses.
#pragma once

#include "ops/cuda/device.h"

namespace dmrec::cuda {

__device__ __forceinline__ int64_t clamped(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// Offsets and columns, in range whatever they hold.
struct SafeCsr {
  CsrIndices indices;

  __device__ int64_t begin(int64_t b) const { return clamped(indices.crow[b], 0, indices.nnz); }
  __device__ int64_t end(int64_t b) const { return clamped(indices.crow[b + 1], 0, indices.nnz); }
  __device__ int64_t col(int64_t entry) const { return clamped(indices.col[entry], 0, indices.n_cols - 1); }

  // the last row that begins at or before an entry
  __device__ int64_t row_of(int64_t entry) const {
    int64_t low = 0, high = indices.n_rows - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (indices.crow[middle] <= entry) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  // the first entry of row b at or behind a column, for columns that rise
  __device__ int64_t lower_bound(int64_t b, int64_t column) const {
    int64_t low = begin(b), high = end(b);
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (indices.col[middle] < column) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  __device__ bool has(int64_t b, int64_t column) const {
    const int64_t entry = lower_bound(b, column);
    return entry < end(b) && indices.col[entry] == column;
  }
};

}  // namespace dmrec::cuda

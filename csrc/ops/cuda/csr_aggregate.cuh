// Kernels of csr_aggregate, over the entries (b, col, value) of a sparse matrix:
//   csr_sum      out[b] = bias[b] + sum value * dense[col]     reads nnz x E elements of dense, writes B x E
//   csr_dot      out[entry] = <rows[b], dense[col]>            reads 2 nnz x E elements, writes nnz
//   transposed   the two index vectors of the transposed matrix, from the sorted columns
// All have one dtype, but where dense has 16 bits the rest may be float32 (Result): what is computed in anyway.
//
// csr_sum: a warp owns a row and a panel of 512 bytes of its columns, a piece of 16 bytes per lane, so that an entry is
// one request of 16 sectors; panels are the grid's second axis, which fills a GPU with few rows, too. Offsets are read
// once per warp, 32 columns at a time by its lanes and handed around by shuffles: 8 bytes of index for 512 of dense.
// No element is written twice, nothing is shared between warps: no atomics, and the order of the entries is the order
// of summation (in runs of 256, as on the CPU: a sum of n terms errs by 256 + n / 256 roundings).
//
// Best for rows of some hundred entries at most and widths of a panel or more: a row of very many entries is one warp's
// work from end to end, and below 512 bytes of width lanes are idle.
//
// csr_dot: a warp per entry, lanes over the width; the row is found by bisection of the offsets (they stay in caches).
#pragma once

#include "ops/cuda/csr_aggregate_launch.h"
#include "ops/cuda/csr_indices.cuh"
#include "ops/cuda/element.cuh"
#include "ops/cuda/reduce.cuh"

namespace dmrec::cuda {

constexpr int64_t run_length = 256;
constexpr int rows_per_block = 4;

template <class Stored, class Result>
struct CsrSum {
  CsrIndices indices;
  const Result* values;
  const Stored* dense;
  int64_t dense_stride;
  const Result* bias;
  int64_t bias_stride;
  Result* out;
  int64_t width;
  bool aligned;
};

// Adds entries [begin, end): lanes fetch 32 columns and values together, then all follow one entry after the other.
template <class Stored, class Result, class T>
__device__ __forceinline__ void add_run(const CsrSum<Stored, Result>& job, const SafeCsr& x, int64_t begin, int64_t end,
                                        int64_t column, int64_t left, T (&sum)[piece<Stored>]) {
  const int lane = threadIdx.x;
  for (int64_t first = begin; first < end; first += warp_size) {
    const int count = static_cast<int>(end - first < warp_size ? end - first : warp_size);
    const int64_t own = first + (lane < count ? lane : 0);
    const int64_t own_col = x.col(own);
    const T own_value = job.values ? Element<Result>::value(job.values[own]) : T(1);
#if defined(__CUDACC__)
#pragma unroll 4
#endif
    for (int i = 0; i < count; ++i) {
      const int64_t col = __shfl_sync(whole_warp, own_col, i);
      const T value = __shfl_sync(whole_warp, own_value, i);
      T part[piece<Stored>];
      load_piece(job.dense + col * job.dense_stride + column, left, job.aligned, part);
      DMREC_UNROLL
      for (int e = 0; e < piece<Stored>; ++e) sum[e] += value * part[e];
    }
  }
}

template <class Stored, class Result>
__global__ void csr_sum(CsrSum<Stored, Result> job) {
  using T = ArithmeticOf<Stored>;
  constexpr int count = piece<Stored>, panel = warp_size * count;
  const int64_t b = int64_t{blockIdx.x} * rows_per_block + threadIdx.y;
  if (b >= job.indices.n_rows) return;  // whole warps
  const SafeCsr x{job.indices};
  const int64_t first = x.begin(b), end = x.end(b);
  for (int64_t from = int64_t{blockIdx.y} * panel; from < job.width; from += int64_t{gridDim.y} * panel) {
    const int64_t column = from + int64_t{threadIdx.x} * count, left = job.width - column;
    T sum[count];
    DMREC_UNROLL
    for (int e = 0; e < count; ++e) sum[e] = T(0);
    if (job.bias) load_pieces(job.bias + b * job.bias_stride + column, left, job.aligned, sum);
    for (int64_t begin = first; begin < end; begin += run_length) {
      T run[count];
      DMREC_UNROLL
      for (int e = 0; e < count; ++e) run[e] = T(0);
      add_run(job, x, begin, begin + run_length < end ? begin + run_length : end, column, left, run);
      DMREC_UNROLL
      for (int e = 0; e < count; ++e) sum[e] += run[e];
    }
    store_pieces(job.out + b * job.width + column, left, job.aligned, sum);
  }
}

template <class Stored, class Result>
struct CsrDot {
  CsrIndices indices;
  const Result* rows;
  int64_t rows_stride;
  const Stored* dense;
  int64_t dense_stride;
  Result* out;
  int64_t width;
  bool aligned;
};

template <class Stored, class Result>
__global__ void csr_dot(CsrDot<Stored, Result> job) {
  using T = ArithmeticOf<Stored>;
  constexpr int count = piece<Stored>;
  const int64_t entry = int64_t{blockIdx.x} * rows_per_block + threadIdx.y;
  if (entry >= job.indices.nnz) return;
  const SafeCsr x{job.indices};
  const Result* row = job.rows + x.row_of(entry) * job.rows_stride;
  const Stored* other = job.dense + x.col(entry) * job.dense_stride;
  T sum = T(0);
  for (int64_t j = int64_t{threadIdx.x} * count; j < job.width; j += warp_size * count) {
    T a[count], c[count];
    load_pieces(row + j, job.width - j, job.aligned, a);
    load_piece(other + j, job.width - j, job.aligned, c);
    DMREC_UNROLL
    for (int e = 0; e < count; ++e) sum += a[e] * c[e];
  }
  sum = sum_over_warp(sum);
  if (threadIdx.x == 0) job.out[entry] = Element<Result>::stored(sum);
}

// A thread per column offset: where the sorted columns reach it.
__global__ static void transposed_offsets(const int64_t* sorted, int64_t nnz, int64_t n_cols, int64_t* t_crow) {
  const int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c > n_cols) return;
  int64_t low = 0, high = nnz;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < c) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  t_crow[c] = low;
}

// A thread per entry of the transposed matrix: the row that it stood in.
__global__ static void transposed_rows(CsrIndices indices, const int64_t* entry, int64_t* t_col) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < indices.nnz) t_col[i] = SafeCsr{indices}.row_of(entry[i]);
}

}  // namespace dmrec::cuda

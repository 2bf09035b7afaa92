// Kernels of code_alignment, see math/code_alignment.h for the equations. With n = B L C logits of each kind:
//   alignment_row_sums    a warp per row of a level: largest logit and log of the sum above it. Reads 2n
//   alignment_columns     a block per 32 codes of a level, 8 groups of rows: what the batch says of a code, from two
//                         passes over its column. Reads n twice
//   alignment_gaps        a warp per row of a level: its part of delta. Reads 2n
//   alignment_losses      a thread per row: delta and the loss
//   alignment_of_delta    a thread per row: the gradient of delta
//   alignment_of_columns  as alignment_columns: what comes back to each negative. Reads 2n
//   alignment_of_rows     a warp per row of a level: both gradients, from two passes over it. Reads 4n, writes 2n
// Neighbouring lanes have neighbouring codes everywhere. Sums over codes run over lanes, then by halves; sums over rows
// by group, then group after group: no atomics, bits repeat.
#pragma once

#include "math/code_alignment.h"
#include "math/online_softmax.h"
#include "ops/cuda/code_alignment_launch.h"
#include "ops/cuda/device.h"
#include "ops/cuda/reduce.cuh"

namespace dmrec::cuda {

constexpr int alignment_codes = 32, alignment_groups = 8;  // of a block that owns columns

template <class T>
struct AlignmentRow {
  const T *y, *p;
  T max_y, above_y, max_p, above_p, b;
  __device__ __forceinline__ T log_y(int64_t j) const { return (y[j] - max_y) - above_y; }
  __device__ __forceinline__ T log_p(int64_t j) const { return (p[j] - max_p) - above_p; }
};

template <class T>
struct Alignment {
  const T *target, *prediction, *weights;
  int64_t n_rows, levels, codes;
  T log_rows, slope;
  T *row_sums, *columns;

  __device__ __forceinline__ T weight(int64_t level) const { return weights ? weights[level] : T(1); }
  __device__ __forceinline__ AlignmentRow<T> row(int64_t b, int64_t level) const {
    const int64_t i = b * levels + level, plane = n_rows * levels;
    return {target + i * codes,      prediction + i * codes,  row_sums[i],      row_sums[plane + i],
            row_sums[2 * plane + i], row_sums[3 * plane + i], static_cast<T>(b)};
  }
  __device__ __forceinline__ AlignmentColumn<T> column(int64_t level, int64_t code) const {
    const int64_t at = level * codes + code, plane = levels * codes;
    return {columns[at], columns[plane + at], columns[2 * plane + at], columns[3 * plane + at]};
  }
};

template <class T>
__device__ __forceinline__ void largest_and_above(const T* row, int64_t count, T* largest, T* above) {
  auto total = MaxAndSum<T>::empty();
  for (int64_t j = threadIdx.x; j < count; j += warp_size) total = total.with({row[j], T(1)});
  DMREC_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    total = total.with(
        {__shfl_xor_sync(whole_warp, total.max, distance), __shfl_xor_sync(whole_warp, total.sum, distance)});
  }
  if (threadIdx.x != 0) return;
  *largest = total.max;
  *above = total.log_sum_above_max();
}

template <class T>
__global__ void alignment_row_sums(Alignment<T> job) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.y + threadIdx.y, plane = job.n_rows * job.levels;
  if (i >= plane) return;  // whole warps
  largest_and_above(job.target + i * job.codes, job.codes, job.row_sums + i, job.row_sums + plane + i);
  largest_and_above(job.prediction + i * job.codes, job.codes, job.row_sums + 2 * plane + i,
                    job.row_sums + 3 * plane + i);
}

template <class Kind, class T>
__global__ void alignment_columns(Alignment<T> job) {
  const int64_t code = int64_t{blockIdx.x} * alignment_codes + threadIdx.x, level = blockIdx.y;
  const bool is_code = code < job.codes;
  T largest = -Float<T>::largest, of_row = T(0), second = -Float<T>::largest;
  for (int64_t b = threadIdx.y; is_code && b < job.n_rows; b += alignment_groups) {
    const auto row = job.row(b, level);
    const T x = row.log_p(code);
    const bool is_larger = x > largest;
    const T other = is_larger ? largest : x;
    second = other > second ? other : second;
    of_row = is_larger ? row.b : of_row;
    largest = is_larger ? x : largest;
  }
  DMREC_SHARED(T, largests, alignment_codes * alignment_groups);
  DMREC_SHARED(T, rows, alignment_codes * alignment_groups);
  DMREC_SHARED(T, seconds, alignment_codes * alignment_groups);
  const int mine = threadIdx.y * alignment_codes + threadIdx.x;
  largests[mine] = largest;
  rows[mine] = of_row;
  seconds[mine] = second;
  __syncthreads();
  largest = -Float<T>::largest;
  second = largest;
  of_row = T(0);
  DMREC_UNROLL
  for (int group = 0; group < alignment_groups; ++group) {
    const int at = group * alignment_codes + threadIdx.x;
    const T x = largests[at], b = rows[at];
    const bool is_larger = x > largest || (x == largest && b < of_row);
    const T other = is_larger ? largest : x;
    second = other > second ? other : second;
    second = seconds[at] > second ? seconds[at] : second;
    of_row = is_larger ? b : of_row;
    largest = is_larger ? x : largest;
  }
  T sum = T(0), rest = T(0);
  for (int64_t b = threadIdx.y; is_code && b < job.n_rows; b += alignment_groups) {
    const auto row = job.row(b, level);
    const T x = row.log_p(code);
    sum += bounded_exp(x - largest);
    if (Kind::leave_one_out && row.b != of_row) rest += bounded_exp(x - second);
  }
  __syncthreads();  // all have read the maxima
  largests[mine] = sum;
  seconds[mine] = rest;
  __syncthreads();
  if (threadIdx.y != 0 || !is_code) return;
  sum = rest = T(0);
  DMREC_UNROLL
  for (int group = 0; group < alignment_groups; ++group) {
    sum += largests[group * alignment_codes + threadIdx.x];
    rest += seconds[group * alignment_codes + threadIdx.x];
  }
  const T of = Kind::leave_one_out ? rest : sum, above = Kind::leave_one_out ? second : largest;
  const int64_t at = level * job.codes + code, plane = job.levels * job.codes;
  job.columns[at] = largest;
  job.columns[plane + at] = of_row;
  job.columns[2 * plane + at] = sum;
  job.columns[3 * plane + at] = above + keep_nan(of, log_of(of));
}

template <class Kind, class T>
__global__ void alignment_gaps(Alignment<T> job, T* gaps) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (i >= job.n_rows * job.levels) return;
  const int64_t level = i % job.levels;
  const auto row = job.row(i / job.levels, level);
  T gap = T(0);
  for (int64_t j = threadIdx.x; j < job.codes; j += warp_size) {
    const T log_p = row.log_p(j);
    gap +=
        alignment_gap<Kind>(row.log_y(j), log_p, log_negative<Kind>(job.column(level, j), log_p, row.b, job.log_rows));
  }
  gap = sum_over_warp(gap);
  if (threadIdx.x == 0) gaps[level * job.n_rows + i / job.levels] = job.weight(level) * gap;
}

template <class T>
__global__ void alignment_losses(Alignment<T> job, const T* gaps, T* delta, T* loss) {
  const int64_t b = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (b >= job.n_rows) return;
  T sum = T(0);
  for (int64_t level = 0; level < job.levels; ++level) sum += gaps[level * job.n_rows + b];
  delta[b] = sum;
  loss[b] = alignment_loss(sum, job.slope);
}

template <class T>
__global__ void alignment_of_delta(Alignment<T> job, const T* grad, const T* delta, T* of_delta) {
  const int64_t b = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (b < job.n_rows) of_delta[b] = grad[b] * of_alignment_loss(delta[b], job.slope);
}

template <class Kind, class T>
__global__ void alignment_of_columns(Alignment<T> job, const T* of_delta, T* out) {
  const int64_t code = int64_t{blockIdx.x} * alignment_codes + threadIdx.x, level = blockIdx.y;
  const bool is_code = code < job.codes;
  const auto column = is_code ? job.column(level, code) : AlignmentColumn<T>{};
  T sum = T(0), of_row = T(0);
  for (int64_t b = threadIdx.y; is_code && b < job.n_rows; b += alignment_groups) {
    const auto row = job.row(b, level);
    const T log_p = row.log_p(code);
    const T log_n = log_negative<Kind>(column, log_p, row.b, job.log_rows);
    const T of_log_n = job.weight(level) * of_delta[b] * of_log_negative<Kind>(row.log_y(code), log_n);
    if (Kind::leave_one_out && row.b == column.row) {
      of_row = of_log_n;
    } else {
      sum += column_share<Kind>(column, log_p, of_log_n);
    }
  }
  DMREC_SHARED(T, sums, alignment_codes * alignment_groups);
  DMREC_SHARED(T, of_rows, alignment_codes * alignment_groups);
  sums[threadIdx.y * alignment_codes + threadIdx.x] = sum;
  of_rows[threadIdx.y * alignment_codes + threadIdx.x] = of_row;
  __syncthreads();
  if (threadIdx.y != 0 || !is_code) return;
  sum = of_row = T(0);
  DMREC_UNROLL
  for (int group = 0; group < alignment_groups; ++group) {
    sum += sums[group * alignment_codes + threadIdx.x];
    of_row += of_rows[group * alignment_codes + threadIdx.x];  // one group has it, the others have 0
  }
  out[level * job.codes + code] = sum;
  out[job.levels * job.codes + level * job.codes + code] = of_row;
}

// What the two gradients of a code are before the shares of their sums are taken off.
template <class T>
struct AlignmentElement {
  T y, p, of_y, of_p;
};

template <class Kind, class T>
__device__ __forceinline__ AlignmentElement<T> alignment_element(const Alignment<T>& job, const AlignmentRow<T>& row,
                                                                 int64_t level, int64_t j, T scale,
                                                                 const T* of_columns) {
  const auto column = job.column(level, j);
  const T log_y = row.log_y(j), log_p = row.log_p(j);
  const T log_n = log_negative<Kind>(column, log_p, row.b, job.log_rows);
  const T y = bounded_exp(log_y), p = bounded_exp(log_p);
  T to_y = T(0), to_p = T(0), negatives = T(0);
  if constexpr (Kind::forward) {
    to_y += y * (log_p - log_n);
    to_p += y;
  }
  if constexpr (Kind::reverse) {
    to_y += p - bounded_exp(log_n);
    to_p -= p * (log_p - log_y);
  }
  if (of_columns) {
    const int64_t at = level * job.codes + j;
    const T of_log_n = scale * of_log_negative<Kind>(log_y, log_n);
    const T own = Kind::leave_one_out ? column_share<Kind>(column, log_p, of_log_n) : T(0);
    const AlignmentColumnGradient<T> gradient{of_columns[at], of_columns[job.levels * job.codes + at]};
    negatives = through_negatives<Kind>(column, gradient, log_p, row.b, own, log_n, job.log_rows);
  }
  return {y, p, scale * to_y, scale * to_p + negatives};
}

template <class Kind, class T>
__global__ void alignment_of_rows(Alignment<T> job, const T* of_delta, const T* of_columns, T* d_target,
                                  T* d_prediction) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (i >= job.n_rows * job.levels) return;
  const int64_t b = i / job.levels, level = i % job.levels;
  const auto row = job.row(b, level);
  const T scale = job.weight(level) * of_delta[b];
  T sum_y = T(0), sum_p = T(0);
  for (int64_t j = threadIdx.x; j < job.codes; j += warp_size) {
    const auto element = alignment_element<Kind>(job, row, level, j, scale, of_columns);
    sum_y += element.of_y;
    sum_p += element.of_p;
  }
  sum_y = sum_over_warp(sum_y);
  sum_p = sum_over_warp(sum_p);
  for (int64_t j = threadIdx.x; j < job.codes; j += warp_size) {
    const auto element = alignment_element<Kind>(job, row, level, j, scale, of_columns);
    if (d_target) d_target[i * job.codes + j] = element.of_y - element.y * sum_y;
    if (d_prediction) d_prediction[i * job.codes + j] = element.of_p - element.p * sum_p;
  }
}

}  // namespace dmrec::cuda

// Kernels of residual_quantize, see ops/residual_quantize.h for the equations.
//   quantize_rows      a warp owns 4 rows through all levels; its lanes own codes, 32 side by side in the transposed
//                      codebook, whose numbers serve all 4 rows. Reads x, writes codes, sums and losses; what is left
//                      of a row is scratch that stays in the L1 cache, codebooks stay in L2
//   gradient_of_rows   a warp per row, lanes over dimensions. Reads x and the incoming gradients, writes the gradient
//   gradient_of_codes  a warp per code, lanes over dimensions, the code's rows in order: no atomics, so bits repeat.
//                      Reads x and codes of each row once per level
// A distance is a sum of squares in the order of the dimensions; of equal ones the lowest code wins, as on the CPU.
// Codes and rows come from the caller: they are clamped to the bounds of memory.
#pragma once

#include "math/elementary.h"
#include "ops/cuda/csr_indices.cuh"
#include "ops/cuda/reduce.cuh"
#include "ops/cuda/residual_quantize_launch.h"

namespace dmrec::cuda {

constexpr int rows_of_warp = 4, warps_of_block = 4;

template <class T>
struct Quantize {
  const T *x, *codebooks;
  int64_t n_rows, levels, codes, width;
  T beta;
};

template <class T>
__global__ void __launch_bounds__(warp_size* warps_of_block)
    quantize_rows(Quantize<T> job, const T* transposed, T* left, T* quantized, T* loss, int64_t* out_codes) {
  const int64_t first = (int64_t{blockIdx.x} * warps_of_block + threadIdx.y) * rows_of_warp, width = job.width;
  if (first >= job.n_rows) return;  // whole warps
  const int lane = threadIdx.x, codes = static_cast<int>(job.codes);
  const int n = job.n_rows - first < rows_of_warp ? static_cast<int>(job.n_rows - first) : rows_of_warp;
  left += first * width;  // of the warp's rows
  quantized += first * width;
  out_codes += first * job.levels;
  for (int64_t i = lane; i < n * width; i += warp_size) {
    left[i] = job.x[first * width + i];
    quantized[i] = T(0);
  }
  T total[rows_of_warp] = {};
  for (int64_t level = 0; level < job.levels; ++level) {
    __syncwarp();
    T least[rows_of_warp];
    int nearest[rows_of_warp];
    DMREC_UNROLL
    for (int r = 0; r < rows_of_warp; ++r) {
      least[r] = Float<T>::largest;
      nearest[r] = codes;
    }
    for (int code = lane; code - lane < codes; code += warp_size) {
      const bool is_code = code < codes;
      const T* column = transposed + level * width * codes + (is_code ? code : 0);
      T sum[rows_of_warp] = {};
      for (int64_t d = 0; d < width; ++d, column += codes) {
        DMREC_UNROLL
        for (int r = 0; r < rows_of_warp; ++r) {  // beyond the last row: the first one again
          const T gap = left[(r < n ? r : 0) * width + d] - *column;
          sum[r] += gap * gap;
        }
      }
      DMREC_UNROLL
      for (int r = 0; r < rows_of_warp; ++r) {
        if (is_code && sum[r] < least[r]) {
          least[r] = sum[r];
          nearest[r] = code;
        }
      }
    }
    __syncwarp();  // all have read what is left
    DMREC_UNROLL
    for (int r = 0; r < rows_of_warp; ++r) {
      DMREC_UNROLL
      for (int distance = warp_size / 2; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(whole_warp, least[r], distance);
        const int code = __shfl_xor_sync(whole_warp, nearest[r], distance);
        if (other < least[r] || (other == least[r] && code < nearest[r])) {
          least[r] = other;
          nearest[r] = code;
        }
      }
      const int code = nearest[r] < codes ? nearest[r] : 0;  // no distance is a number: the first
      const T* vector = job.codebooks + (level * codes + code) * width;
      T squares = T(0);
      for (int64_t d = lane; r < n && d < width; d += warp_size) {
        const T rest = left[r * width + d] - vector[d];
        left[r * width + d] = rest;
        quantized[r * width + d] += vector[d];
        squares += rest * rest;
      }
      total[r] += sum_over_warp(squares);
      if (r < n && lane == 0) out_codes[r * job.levels + level] = code;
    }
  }
  DMREC_UNROLL
  for (int r = 0; r < rows_of_warp; ++r) {
    if (r < n && lane == 0) loss[first + r] = (T(1) + job.beta) * total[r];
  }
}

template <class T>
struct QuantizeGradient {
  const T *of_quantized, *of_loss;  // either may be null
  const int64_t *codes, *code_begin, *code_rows;
  bool first_alone, full;
};

// Dimension d of the code of row b on a level.
template <class T>
__device__ __forceinline__ T code_of(const Quantize<T>& job, const int64_t* codes, int64_t b, int64_t level,
                                     int64_t d) {
  const int64_t code = clamped(codes[b * job.levels + level], 0, job.codes - 1);
  return job.codebooks[(level * job.codes + code) * job.width + d];
}

template <class T>
__global__ void gradient_of_rows(Quantize<T> job, QuantizeGradient<T> of, T* out) {
  const int64_t b = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (b >= job.n_rows) return;
  const int64_t last = of.first_alone && job.levels > 1 ? 1 : job.levels;
  const T scale = of.of_loss ? T(2) * job.beta * of.of_loss[b] : T(0);
  for (int64_t d = threadIdx.x; d < job.width; d += warp_size) {
    T left = job.x[b * job.width + d], sum = T(0);
    for (int64_t level = 0; level < last; ++level) {
      left -= code_of(job, of.codes, b, level, d);
      sum += left;
    }
    const T of_loss = of.of_loss ? scale * sum : T(0);
    out[b * job.width + d] = of.of_quantized ? of_loss + of.of_quantized[b * job.width + d] : of_loss;
  }
}

template <class T>
__global__ void gradient_of_codes(Quantize<T> job, QuantizeGradient<T> of, T* out) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;  // over all levels
  if (i >= job.levels * job.codes) return;
  const int64_t level = i / job.codes, code = i % job.codes;
  const int64_t* bounds = of.code_begin + level * (job.codes + 1) + code;
  const int64_t begin = clamped(bounds[0], 0, job.n_rows), end = clamped(bounds[1], 0, job.n_rows);
  for (int64_t d = threadIdx.x; d < job.width; d += warp_size) {
    T sum = T(0);
    for (int64_t e = begin; of.of_loss && e < end; ++e) {
      const int64_t b = clamped(of.code_rows[level * job.n_rows + e], 0, job.n_rows - 1);
      T left = job.x[b * job.width + d];
      for (int64_t l = 0; l <= level; ++l) left -= code_of(job, of.codes, b, l, d);
      const T scale = T(-2) * of.of_loss[b];
      sum += scale * left;
      if (!of.full) continue;
      T later = T(0);
      for (int64_t l = level + 1; l < job.levels; ++l) {
        left -= code_of(job, of.codes, b, l, d);
        later += left;
      }
      sum += scale * job.beta * later;
    }
    out[i * job.width + d] = sum;
  }
}

}  // namespace dmrec::cuda

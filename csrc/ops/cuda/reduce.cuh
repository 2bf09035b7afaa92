// Sums over the threads that share a row, in a fixed order: within a warp by halves, then warp after warp.
#pragma once

#include "ops/cuda/device.h"

namespace dmrec::cuda {

constexpr int warps_of_wide_row = 8;

// Over the lanes of a warp; all get the result.
template <class T>
__device__ __forceinline__ T sum_over_warp(T value) {
  DMREC_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(whole_warp, value, distance);
  }
  return value;
}

// Sums over the blockDim.x threads of a row: a warp, or the whole block of warps_of_wide_row warps. All get the result.
template <int n, class T>
__device__ __forceinline__ void sum_over_row(T (&sum)[n]) {
  DMREC_UNROLL
  for (int k = 0; k < n; ++k) sum[k] = sum_over_warp(sum[k]);
  if (blockDim.x == warp_size) return;
  DMREC_SHARED(T, of_warps, n * warps_of_wide_row);
  const int warp = threadIdx.x / warp_size;
  if (threadIdx.x % warp_size == 0) {
    DMREC_UNROLL
    for (int k = 0; k < n; ++k) of_warps[k * warps_of_wide_row + warp] = sum[k];
  }
  __syncthreads();
  DMREC_UNROLL
  for (int k = 0; k < n; ++k) {
    sum[k] = T(0);
    DMREC_UNROLL
    for (int w = 0; w < warps_of_wide_row; ++w) sum[k] += of_warps[k * warps_of_wide_row + w];
  }
  __syncthreads();  // the array may be written again
}

}  // namespace dmrec::cuda

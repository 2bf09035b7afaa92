// Kernels of multinomial_terms. With logits l = hidden weight^T + bias of a row:
//   S = log sum_i e^{l_i},  T = sum_i x_i l_i;      with g, h their gradients: d / d l_i = g e^{l_i - S} + h x_i
// The products are torch's, tile by tile of the items; around them
//   chunk_sums      maximum, sum of exponentials and targets of 4096 logits of a row. Reads each logit once
//   combine_chunks  those of a row together, in order; a thread per row
//   row_terms       S, T and the sum of x; a warp per row
//   tile_gradient   d / d l of a tile. Reads each logit once, writes it once
//   column_sums     the gradient of the bias. Reads each gradient once
//   add_to          sum += part, for the gradient of hidden. Reads two, writes one
//
// chunk_sums and tile_gradient: a block owns 4096 columns of a row, so that few rows fill a GPU, too, and the bits of a
// row's sum depend on its length alone, not on tiles. A thread takes 16 bytes at a time where rows are aligned. Sums
// are those of the monoid in online_softmax.h: one pass, no second look at the maximum. Targets are found by bisection
// of the row's columns, which rise. No atomics: a row has a column at most once, and one block owns it.
#pragma once

#include "math/online_softmax.h"
#include "ops/cuda/csr_indices.cuh"
#include "ops/cuda/element.cuh"
#include "ops/cuda/multinomial_nll_launch.h"
#include "ops/cuda/reduce.cuh"

namespace dmrec::cuda {

constexpr int nll_threads = 256, nll_warps = nll_threads / warp_size;
constexpr int column_block = 32, row_groups = 8;  // of column_sums

// Logits [0, count) of each row, which are those of items from `first` on.
template <class Product>
struct LogitTile {
  const Product* data;
  int64_t stride;
  const ArithmeticOf<Product>* bias;  // of the first item
  int64_t first, count;
  bool aligned, bias_aligned;
};

template <class T>
struct Targets {
  CsrIndices indices;
  const T* values;  // null for ones

  __device__ T value(int64_t entry) const { return values ? values[entry] : T(1); }
};

// body(column in the tile, value) for the targets of row b in columns [begin, end) of the tile, shared out to threads
template <class T, class Product, class Body>
__device__ __forceinline__ void over_targets(const Targets<T>& targets, const LogitTile<Product>& tile, int64_t b,
                                             int64_t begin, int64_t end, const Body& body) {
  const SafeCsr x{targets.indices};
  const int64_t stop = x.lower_bound(b, tile.first + end);
  for (int64_t entry = x.lower_bound(b, tile.first + begin) + threadIdx.x; entry < stop; entry += nll_threads) {
    const int64_t column = targets.indices.col[entry] - tile.first;
    if (column >= begin && column < end) body(column, targets.value(entry));
  }
}

template <class T>
__device__ __forceinline__ MaxAndSum<T> over_lanes(MaxAndSum<T> part) {
  DMREC_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    part =
        part.with({__shfl_xor_sync(whole_warp, part.max, distance), __shfl_xor_sync(whole_warp, part.sum, distance)});
  }
  return part;
}

// What a row's logits come to, by chunk of nll_chunk columns: arrays of (chunks, rows).
template <class T>
struct ChunkSums {
  T *max, *sum;
  double* of_targets;
};

template <class Product>
__global__ void __launch_bounds__(nll_threads)
    chunk_sums(LogitTile<Product> tile, Targets<ArithmeticOf<Product>> targets, ChunkSums<ArithmeticOf<Product>> to) {
  using T = ArithmeticOf<Product>;
  constexpr int pieces = piece<Product>;
  const int64_t b = blockIdx.x, begin = int64_t{blockIdx.y} * nll_chunk;
  const int64_t end = begin + nll_chunk < tile.count ? begin + nll_chunk : tile.count;
  const Product* row = tile.data + b * tile.stride;
  auto total = MaxAndSum<T>::empty();
  for (int64_t j = begin + int64_t{threadIdx.x} * pieces; j < end; j += nll_threads * pieces) {
    T logit[pieces], bias[pieces];
    load_piece(row + j, end - j, tile.aligned, logit);
    load_pieces(tile.bias + j, end - j, tile.bias_aligned, bias);
    T max = total.max;
    DMREC_UNROLL
    for (int e = 0; e < pieces; ++e) {
      logit[e] += bias[e];
      max = j + e < end && logit[e] > max ? logit[e] : max;
    }
    total.sum *= bounded_exp(total.max - max);
    total.max = max;
    DMREC_UNROLL
    for (int e = 0; e < pieces; ++e) total.sum += j + e < end ? bounded_exp(logit[e] - max) : T(0);
  }
  double of_targets = 0;
  over_targets(targets, tile, b, begin, end, [&](int64_t column, T value) {
    of_targets +=
        static_cast<double>(value) * static_cast<double>(Element<Product>::value(row[column]) + tile.bias[column]);
  });

  total = over_lanes(total);
  of_targets = sum_over_warp(of_targets);
  DMREC_SHARED(T, max_of_warps, nll_warps);
  DMREC_SHARED(T, sum_of_warps, nll_warps);
  DMREC_SHARED(double, targets_of_warps, nll_warps);
  if (threadIdx.x % warp_size == 0) {
    max_of_warps[threadIdx.x / warp_size] = total.max;
    sum_of_warps[threadIdx.x / warp_size] = total.sum;
    targets_of_warps[threadIdx.x / warp_size] = of_targets;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < nll_warps; ++w) {
      total = total.with({max_of_warps[w], sum_of_warps[w]});
      of_targets += targets_of_warps[w];
    }
    const int64_t place = int64_t{blockIdx.y} * gridDim.x + b;
    to.max[place] = total.max;
    to.sum[place] = total.sum;
    to.of_targets[place] = of_targets;
  }
}

// `state`: (1, rows), what came before this tile unless it is the first.
template <class T>
__global__ void combine_chunks(ChunkSums<T> parts, int64_t chunks, int64_t n_rows, bool is_first, ChunkSums<T> state) {
  const int64_t b = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (b >= n_rows) return;
  auto total = is_first ? MaxAndSum<T>::empty() : MaxAndSum<T>{state.max[b], state.sum[b]};
  double of_targets = is_first ? 0 : state.of_targets[b];
  for (int64_t c = 0; c < chunks; ++c) {
    total = total.with({parts.max[c * n_rows + b], parts.sum[c * n_rows + b]});
    of_targets += parts.of_targets[c * n_rows + b];
  }
  state.max[b] = total.max;
  state.sum[b] = total.sum;
  state.of_targets[b] = of_targets;
}

// The sum of a row's values, by a warp.
template <class T>
__device__ __forceinline__ double total_of(const Targets<T>& targets, int64_t b) {
  const SafeCsr x{targets.indices};
  const int64_t begin = x.begin(b), end = x.end(b);
  if (!targets.values) return end > begin ? static_cast<double>(end - begin) : 0;
  double sum = 0;
  for (int64_t entry = begin + threadIdx.x; entry < end; entry += warp_size) {
    sum += static_cast<double>(targets.values[entry]);
  }
  return sum_over_warp(sum);
}

template <class T>
__global__ void row_terms(ChunkSums<T> state, Targets<T> targets, double* terms, T* log_sums) {
  const int64_t b = int64_t{blockIdx.x} * blockDim.y + threadIdx.y, n_rows = targets.indices.n_rows;
  if (b >= n_rows) return;  // whole warps
  const double total = total_of(targets, b);
  if (threadIdx.x != 0) return;
  const T max = state.max[b], above = MaxAndSum<T>{max, state.sum[b]}.log_sum_above_max();
  log_sums[b] = max;
  log_sums[n_rows + b] = above;
  terms[b] = static_cast<double>(max) + static_cast<double>(above);
  terms[n_rows + b] = state.of_targets[b];
  terms[2 * n_rows + b] = total;
}

// out: contiguous (rows, count); may be the logits themselves
template <class Product>
__global__ void __launch_bounds__(nll_threads)
    tile_gradient(LogitTile<Product> tile, Targets<ArithmeticOf<Product>> targets,
                  const ArithmeticOf<Product>* log_sums, const double* grad, Product* out, bool out_aligned) {
  using T = ArithmeticOf<Product>;
  constexpr int pieces = piece<Product>;
  const int64_t b = blockIdx.x, begin = int64_t{blockIdx.y} * nll_chunk;
  const int64_t end = begin + nll_chunk < tile.count ? begin + nll_chunk : tile.count;
  const Product* row = tile.data + b * tile.stride;
  Product* to = out + b * tile.count;
  const T max = log_sums[b], above = log_sums[gridDim.x + b], scale = static_cast<T>(grad[b]);
  for (int64_t j = begin + int64_t{threadIdx.x} * pieces; j < end; j += nll_threads * pieces) {
    T x[pieces], bias[pieces];
    load_piece(row + j, end - j, tile.aligned, x);
    load_pieces(tile.bias + j, end - j, tile.bias_aligned, bias);
    DMREC_UNROLL
    for (int e = 0; e < pieces; ++e) x[e] = scale * bounded_exp((x[e] + bias[e] - max) - above);
    store_piece(to + j, end - j, out_aligned, x);
  }
  __syncthreads();
  const T of_row = static_cast<T>(grad[gridDim.x + b]);
  over_targets(targets, tile, b, begin, end, [&](int64_t column, T value) {
    to[column] = Element<Product>::stored(Element<Product>::value(to[column]) + of_row * value);
  });
}

// A block owns 32 columns: 8 groups of rows, summed each in order, then group after group.
template <class Product>
__global__ void column_sums(const Product* tile, int64_t n_rows, int64_t count, ArithmeticOf<Product>* sums) {
  using T = ArithmeticOf<Product>;
  const int64_t column = int64_t{blockIdx.x} * column_block + threadIdx.x;
  T sum = T(0);
  for (int64_t b = threadIdx.y; column < count && b < n_rows; b += row_groups) {
    sum += Element<Product>::value(tile[b * count + column]);
  }
  DMREC_SHARED(T, of_groups, row_groups * column_block);
  of_groups[threadIdx.y * column_block + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= count) return;
  T total = T(0);
  DMREC_UNROLL
  for (int group = 0; group < row_groups; ++group) total += of_groups[group * column_block + threadIdx.x];
  sums[column] = total;
}

// Contiguous, and allocated as such: 16 bytes at a time.
template <class T>
__global__ void add_to(T* sum, const T* part, int64_t count) {
  const int64_t j = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * piece<T>;
  if (j >= count) return;
  T x[piece<T>], more[piece<T>];
  load_piece(sum + j, count - j, true, x);
  load_piece(part + j, count - j, true, more);
  DMREC_UNROLL
  for (int e = 0; e < piece<T>; ++e) x[e] += more[e];
  store_piece(sum + j, count - j, true, x);
}

}  // namespace dmrec::cuda

// Kernels of rank_topk. The product of users and a tile of items, by torch, is a filter with a known error; what may be
// among the first k is scored again, in double and in one fixed order (the CPU's), and ranked by those scores. The
// result does not depend on tiles, blocks or what the product rounded.
//
//   item_norms     per item, once: its norm in double, for the bound. Reads N x H elements
//   user_margins   per user, once: how far a product may lie from the score. Reads B x H
//   select_tile    per tile: reads B x tile products, once, and little else: few items reach the threshold
//   finish_ranking merges the parts of a user and writes the result
//
// select_tile: a block owns a user and every parts-th chunk of 1024 columns of the tile (parts > 1 where users alone
// would not fill a GPU). A thread reads 16 bytes of products; a chunk in which nothing reaches the threshold, which is
// nearly every one, costs one barrier. The others go to a buffer in shared memory. Full, or at the end of the tile, the
// buffer is sorted by product; what is below the k-th product less twice the margin is dropped; the rest is scored (16
// lanes a score, as the CPU's lanes) and merged into the best k by a bitonic sort. The k-th score less the margin is
// the next threshold. No atomics: places in the buffer come from ballots.
//
// The bits of a score are the CPU's for float32 and 16-bit inputs, whose products are exact in double.
//
// Items whose norm the bound does not cover (NaN and infinity among them) always pass the filter, by a bias of +inf;
// users for whom there is no bound rank all items by score, slowly and right.
#pragma once

#include "math/product_bound.h"
#include "math/rank_order.h"
#include "ops/cuda/csr_indices.cuh"
#include "ops/cuda/element.cuh"
#include "ops/cuda/rank_topk_launch.h"
#include "ops/cuda/reduce.cuh"

namespace dmrec::cuda {

constexpr int ranking_threads = 256, chunk = rank_chunk;  // columns that a block looks at between two barriers
constexpr int64_t nobody = INT64_MAX;                     // the id of an empty place: it ranks behind all others

DMREC_FN double quiet_nan() { return bits_of<double>(uint64_t{0x7ff8000000000000}); }

template <class Stored>
struct Vectors {
  const Stored* data;
  int64_t stride, width;
};

// --- dot products in double ------------------------------------------------------------------------------------------

constexpr int dot_lanes = 16;

// By 16 neighbouring lanes, each over every 16th product, then by halves: the bits of the CPU's.
template <class Stored>
__device__ __forceinline__ double exact_dot(const Stored* a, const Stored* b, int64_t width) {
  const int lane = threadIdx.x % dot_lanes;
  const unsigned mask = 0xffffu << (threadIdx.x % warp_size - lane);
  double sum = 0;
  for (int64_t j = lane; j < width; j += dot_lanes) {
    sum += static_cast<double>(Element<Stored>::value(a[j])) * static_cast<double>(Element<Stored>::value(b[j]));
  }
  DMREC_UNROLL
  for (int distance = dot_lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(mask, sum, distance);
  return sum;
}

// As bounded_norm has it. By 16 lanes.
template <class Stored>
__device__ __forceinline__ double norm_of(const Stored* a, int64_t width) {
  const double root = sqrt(exact_dot(a, a, width));
  const int lane = threadIdx.x % dot_lanes;
  const unsigned mask = 0xffffu << (threadIdx.x % warp_size - lane);
  bool zero = true;
  for (int64_t j = lane; j < width; j += dot_lanes) zero = zero && Element<Stored>::value(a[j]) == 0;
  zero = __all_sync(mask, zero);
  return bounded_norm(root, zero);
}

// --- the bound -------------------------------------------------------------------------------------------------------

// maxima[0 .. blocks) of norms, then of the sizes of biases, over the items that the filter may judge.
template <class Stored>
__global__ void item_norms(Vectors<Stored> items, const Stored* bias, int64_t n_items,
                           ArithmeticOf<Stored>* filter_bias, double* maxima) {
  using T = ArithmeticOf<Stored>;
  constexpr int teams = ranking_threads / dot_lanes;
  const int team = threadIdx.x / dot_lanes;
  double norm_max = 0, bias_max = 0;
  for (int64_t i = int64_t{blockIdx.x} * teams + team; i < n_items; i += int64_t{gridDim.x} * teams) {
    const double norm = norm_of(items.data + i * items.stride, items.width);
    const T value = bias ? Element<Stored>::value(bias[i]) : T(0);
    const double size = fabs(static_cast<double>(value));
    const bool out = value == -infinity<T>();  // a mask: such a product passes only where fewer than k others do
    const bool bounded = norm <= largest_norm<T>() && (out || size <= largest_norm<T>());
    if (bounded && norm > norm_max) norm_max = norm;
    if (bounded && !out && size > bias_max) bias_max = size;
    if (threadIdx.x % dot_lanes == 0) filter_bias[i] = bounded ? value : infinity<T>();
  }
  DMREC_SHARED(double, of_teams, 2 * teams);
  if (threadIdx.x % dot_lanes == 0) {
    of_teams[team] = norm_max;
    of_teams[teams + team] = bias_max;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    double largest = 0;
    for (int t = 0; t < teams; ++t) {
      const double other = of_teams[threadIdx.x * teams + t];
      if (other > largest) largest = other;
    }
    maxima[threadIdx.x * gridDim.x + blockIdx.x] = largest;
  }
}

// |product + bias - score| is at most this (math/product_bound.h). torch may choose to multiply float32 in TF32.
// Infinite where there is no bound. One team of 16 lanes a user.
template <class Stored>
__global__ void user_margins(Vectors<Stored> users, int64_t n_users, const double* maxima, int n_maxima, bool rounded,
                             double* margins) {
  using T = ArithmeticOf<Stored>;
  const int lane = threadIdx.x % dot_lanes;
  const int64_t user = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / dot_lanes;
  if (user >= n_users) return;  // whole teams
  const unsigned mask = 0xffffu << (threadIdx.x % warp_size - lane);
  double items_norm = 0, items_bias = 0;
  for (int i = lane; i < n_maxima; i += dot_lanes) {
    items_norm = maxima[i] > items_norm ? maxima[i] : items_norm;
    items_bias = maxima[n_maxima + i] > items_bias ? maxima[n_maxima + i] : items_bias;
  }
  for (int distance = dot_lanes / 2; distance > 0; distance /= 2) {
    const double norm = __shfl_xor_sync(mask, items_norm, distance), size = __shfl_xor_sync(mask, items_bias, distance);
    items_norm = norm > items_norm ? norm : items_norm;
    items_bias = size > items_bias ? size : items_bias;
  }
  const double norm = norm_of(users.data + user * users.stride, users.width);
  const auto factors = rounded                      ? Factors::in_bf16
                       : sizeof(T) == sizeof(float) ? Factors::in_tf32
                                                    : Factors::as_they_are;
  const double bound = product_bound<T>(static_cast<double>(users.width), norm, items_norm, items_bias, factors);
  if (lane == 0) margins[user] = bound;
}

// --- candidates ------------------------------------------------------------------------------------------------------

// A user's best k in order, and behind them a buffer. Places [0, best) hold the former, empty ones included.
struct Candidates {
  double* score;
  int64_t* id;
  int k, best;  // best: k rounded up to a power of two
};

DMREC_FN int power_of_two_from(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

// Places [begin, begin + size) into their order; size a power of two. By all threads of the block.
__device__ __forceinline__ void sort_places(const Candidates& c, int begin, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < size / 2; i += ranking_threads) {
        const int low = begin + 2 * i - i % distance, high = low + distance;
        const bool forward = ((low - begin) & run) == 0;
        const double score_low = c.score[low], score_high = c.score[high];
        const int64_t id_low = c.id[low], id_high = c.id[high];
        const bool swap = forward ? ranks_before(score_high, id_high, score_low, id_low)
                                  : ranks_before(score_low, id_low, score_high, id_high);
        if (swap) {
          c.score[low] = score_high;
          c.id[low] = id_high;
          c.score[high] = score_low;
          c.id[high] = id_low;
        }
      }
    }
  }
  __syncthreads();
}

__device__ __forceinline__ void clear_places(const Candidates& c, int begin, int end) {
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += ranking_threads) {
    c.score[i] = quiet_nan();
    c.id[i] = nobody;
  }
}

// The best k of the best and of `count` places behind them, which hold scores.
__device__ __forceinline__ void merge_places(const Candidates& c, int count) {
  const int size = power_of_two_from(c.best + count);
  clear_places(c, c.best + count, size);
  sort_places(c, 0, size);
  clear_places(c, c.k, c.best);
  __syncthreads();
}

template <class Stored>
struct RankTile {
  Vectors<Stored> users, items;
  const Stored* bias;
  CsrIndices exclude;  // crow null for none
  const ArithmeticOf<Stored>* filter_bias;
  const double* margins;
  int64_t n_users;
  int k, best;
  double* scores;  // (parts, n_users, k): the best so far
  int64_t* ids;
  const ArithmeticOf<Stored>* products;  // (n_users, count)
  int64_t first, count;                  // the tile's items
  bool aligned, is_first;
};

// What is in the buffer, by product, into the best k. All threads of the block; n_pending is the same for all.
template <class Stored>
__device__ __forceinline__ void rescore(const RankTile<Stored>& job, const Candidates& c, int64_t user, double margin,
                                        int n_pending) {
  const SafeCsr seen{job.exclude};
  __syncthreads();
  for (int i = threadIdx.x; i < n_pending; i += ranking_threads) {
    const int place = c.best + i;
    if (job.exclude.crow && seen.has(user, c.id[place])) {
      c.score[place] = quiet_nan();
      c.id[place] = nobody;
    }
  }
  const int size = power_of_two_from(n_pending);
  clear_places(c, c.best + n_pending, c.best + size);
  sort_places(c, c.best, size);

  // Items that always pass come first, with a product of +inf: they say nothing about the others.
  int unbounded = 0;
  for (int i = 0; i < size; i += ranking_threads) {
    const int place = i + static_cast<int>(threadIdx.x);
    unbounded += __syncthreads_count(place < size && c.score[c.best + place] == infinity<double>());
  }
  double least = -infinity<double>();
  if (unbounded + c.k <= n_pending) {
    const double kth = c.score[c.best + unbounded + c.k - 1];  // NaN where that place is empty
    if (kth - 2 * margin > least) least = kth - 2 * margin;
  }
  int kept = 0;
  for (int i = 0; i < size; i += ranking_threads) {
    const int place = i + static_cast<int>(threadIdx.x);
    const bool stays = place < size && c.id[c.best + place] != nobody && !(c.score[c.best + place] < least);
    kept += __syncthreads_count(stays);
  }
  __syncthreads();  // scores are read above, by other threads than write them below
  for (int i = threadIdx.x / dot_lanes; i < kept; i += ranking_threads / dot_lanes) {
    const int64_t item = c.id[c.best + i];
    const double dot =
        exact_dot(job.users.data + user * job.users.stride, job.items.data + item * job.items.stride, job.users.width);
    const double bias = job.bias ? static_cast<double>(Element<Stored>::value(job.bias[item])) : 0;
    if (threadIdx.x % dot_lanes == 0) c.score[c.best + i] = dot + bias;
  }
  __syncthreads();
  merge_places(c, kept);
}

// The bound below which no product can belong to the best k.
template <class T>
__device__ __forceinline__ T threshold_of(const Candidates& c, double margin) {
  const double bound = c.score[c.k - 1] - margin;  // NaN where there are fewer than k, or no bound
  const double lowest = -infinity<double>();
  return static_cast<T>(c.id[c.k - 1] != nobody && bound > lowest ? bound : lowest);
}

template <class Stored>
__global__ void __launch_bounds__(ranking_threads, 2) select_tile(RankTile<Stored> job) {
  using T = ArithmeticOf<Stored>;
  constexpr int pieces = piece<T>, each = chunk / ranking_threads, warps = ranking_threads / warp_size;
  DMREC_SHARED(double, score, 2 * chunk);
  DMREC_SHARED(int64_t, id, 2 * chunk);
  DMREC_SHARED(int, of_warps, 2 * warps);
  const int64_t user = blockIdx.x, state = (int64_t{blockIdx.y} * job.n_users + user) * job.k;
  const Candidates c{score, id, job.k, job.best};
  const double margin = job.margins[user];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  clear_places(c, job.is_first ? 0 : job.k, job.best);
  for (int i = threadIdx.x; i < job.k && !job.is_first; i += ranking_threads) {
    score[i] = job.scores[state + i];
    id[i] = job.ids[state + i];
  }
  __syncthreads();

  const T* products = job.products + user * job.count;
  T threshold = threshold_of<T>(c, margin);
  int pending = 0, turn = 0;
  for (int64_t from = int64_t{blockIdx.y} * chunk; from < job.count; from += int64_t{gridDim.y} * chunk) {
    T value[each];
    DMREC_UNROLL
    for (int p = 0; p < each; p += pieces) {
      const int64_t j = from + p * ranking_threads + int64_t{threadIdx.x} * pieces;
      T product[pieces], bias[pieces];
      load_piece(products + j, job.count - j, job.aligned, product);
      load_piece(job.filter_bias + job.first + j, job.count - j, job.aligned, bias);
      DMREC_UNROLL
      for (int e = 0; e < pieces; ++e) {
        const T sum = product[e] + bias[e];
        value[p + e] = bias[e] == infinity<T>() ? infinity<T>() : sum;
      }
    }
    const auto column = [&](int e) {
      return from + e / pieces * pieces * ranking_threads + int64_t{threadIdx.x} * pieces + e % pieces;
    };
    for (bool rescored = false;;) {
      int before = 0, of_warp = 0;
      DMREC_UNROLL
      for (int e = 0; e < each; ++e) {
        const unsigned hits = __ballot_sync(whole_warp, column(e) < job.count && !(value[e] < threshold));
        before += __popc(hits & ((1u << lane) - 1));
        of_warp += __popc(hits);
      }
      if (lane == 0) of_warps[turn * warps + warp] = of_warp;
      __syncthreads();
      int total = 0;
      DMREC_UNROLL
      for (int w = 0; w < warps; ++w) {
        const int count = of_warps[turn * warps + w];
        before += w < warp ? count : 0;
        total += count;
      }
      turn ^= 1;  // the next count goes elsewhere: this one may still be read
      if (total == 0) break;
      if (pending + total > chunk && !rescored) {
        rescore(job, c, user, margin, pending);
        threshold = threshold_of<T>(c, margin);
        pending = 0;
        rescored = true;
        continue;
      }
      DMREC_UNROLL
      for (int e = 0; e < each; ++e) {
        if (column(e) < job.count && !(value[e] < threshold)) {
          score[job.best + pending + before] = static_cast<double>(value[e]);
          id[job.best + pending + before] = job.first + column(e);
          ++before;
        }
      }
      pending += total;
      break;
    }
  }
  if (pending > 0) rescore(job, c, user, margin, pending);
  __syncthreads();
  for (int i = threadIdx.x; i < job.k; i += ranking_threads) {
    job.scores[state + i] = score[i];
    job.ids[state + i] = id[i];
  }
}

// The parts of a user into one; -inf and -1 where there is nobody. A template, as kernels in headers are.
template <class Score>
__global__ void __launch_bounds__(ranking_threads)
    finish_ranking(const Score* scores, const int64_t* ids, int parts, int k, int best, Score* out_scores,
                   int64_t* out_ids) {
  DMREC_SHARED(double, score, 2 * chunk);
  DMREC_SHARED(int64_t, id, 2 * chunk);
  const int64_t user = blockIdx.x, n_users = gridDim.x;
  const Candidates c{score, id, k, best};
  clear_places(c, 0, best);
  __syncthreads();
  for (int part = 0; part < parts; ++part) {
    for (int i = threadIdx.x; i < k; i += ranking_threads) {
      score[best + i] = scores[(part * n_users + user) * k + i];
      id[best + i] = ids[(part * n_users + user) * k + i];
    }
    merge_places(c, k);
  }
  for (int i = threadIdx.x; i < k; i += ranking_threads) {
    const bool empty = id[i] == nobody;
    out_scores[user * k + i] = empty ? -infinity<Score>() : score[i];
    out_ids[user * k + i] = empty ? -1 : id[i];
  }
}

}  // namespace dmrec::cuda

// Kernels with one error each, and correct ones that come close: what the emulator's own tests run.
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <stdexcept>

#include "simt.h"

namespace {

constexpr int n = 64;  // elements of x and o, threads of most blocks

// --- errors ----------------------------------------------------------------------------------------------------------

void no_barrier(const float* x, float* o) {
  SIMT_SHARED(float, s, n);
  s[threadIdx.x] = 0;
  __syncthreads();
  s[threadIdx.x] = x[threadIdx.x];
  o[threadIdx.x] = s[n - 1 - threadIdx.x];
}

void no_second_barrier(const float* x, float* o) {
  SIMT_SHARED(float, s, n);
  for (int round = 0; round < 2; ++round) {
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    o[threadIdx.x] = s[n - 1 - threadIdx.x];
  }
}

void no_syncwarp(const float* x, float* o) {
  SIMT_SHARED(float, s, 32);
  s[threadIdx.x] = 0;
  __syncwarp();
  s[threadIdx.x] = x[threadIdx.x];
  o[threadIdx.x] = s[31 - threadIdx.x];
}

void shuffle_as_barrier(const float* x, float* o) {
  SIMT_SHARED(float, s, 32);
  s[threadIdx.x] = x[threadIdx.x];
  const float other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
  o[threadIdx.x] = s[31 - threadIdx.x] + other;
}

void half_a_barrier(const float* x, float* o) {
  if (threadIdx.x < 40) __syncthreads();
  o[threadIdx.x] = x[threadIdx.x];
}

void return_before_barrier(const float* x, float* o) {
  if (threadIdx.x >= 50) return;
  __syncthreads();
  o[threadIdx.x] = x[threadIdx.x];
}

void two_barriers(const float* x, float* o) {
  if (threadIdx.x % 2 == 1) {
    o[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
  } else {
    o[threadIdx.x] = 2;
    __syncthreads();
  }
}

void half_a_shuffle(const float* x, float* o) {
  float v = x[threadIdx.x];
  if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffffu, v, 8);
  o[threadIdx.x] = v;
}

void shuffle_with_the_gone(const float* x, float* o) {
  if (threadIdx.x >= 50) return;
  o[threadIdx.x] = __shfl_down_sync(0xffffffffu, x[threadIdx.x], 1);
}

void shuffle_beyond_mask(const float* x, float* o) {
  if (threadIdx.x < 16) o[threadIdx.x] = __shfl_down_sync(0x0000ffffu, x[threadIdx.x], 1);
}

void mask_without_caller(const float* x, float* o) { o[threadIdx.x] = __shfl_sync(0x0000ffffu, x[threadIdx.x], 0); }

void two_operations(const float* x, float* o) {
  const float v = x[threadIdx.x];
  o[threadIdx.x] = threadIdx.x % 2 == 0 ? __shfl_xor_sync(0xffffffffu, v, 1) : __shfl_down_sync(0xffffffffu, v, 1);
}

void read_beyond_end(const float* x, float* o) {
  const unsigned i = blockIdx.x * n + threadIdx.x;
  const float v = x[i];
  if (i < n) o[i] = v;
}

void write_beyond_end(const float* x, float* o) {
  const unsigned i = blockIdx.x * n + threadIdx.x;
  o[i] = i < n ? x[i] : 0.f;
}

void vector_beyond_end(const float* x, float* o) {
  const float4 v = reinterpret_cast<const float4*>(x)[threadIdx.x + 1];
  o[threadIdx.x] = v.w;
}

void shared_beyond_end(const float* x, float* o) {
  SIMT_SHARED(float, s, 32);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  o[threadIdx.x] = s[threadIdx.x];
}

void dynamic_beyond_end(const float* x, float* o) {
  SIMT_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  o[threadIdx.x] = s[threadIdx.x];
}

void local_beyond_end(const float* x, float* o) {
  float local[4] = {1, 2, 3, 4};
  o[threadIdx.x] = local[threadIdx.x / 8] + x[threadIdx.x];
}

void shared_never_written(const float* x, float* o) {
  SIMT_SHARED(float, s, n);
  if (threadIdx.x < n - 1) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  o[threadIdx.x] = s[threadIdx.x];
}

void shared_of_another_block(const float* x, float* o) {
  SIMT_SHARED(float, s, n);
  if (blockIdx.x == 0) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(o, s[5]);
}

void fresh_read(const float* x, float* o) { o[threadIdx.x] += x[threadIdx.x]; }

void all_write_one(const float* x, float* o) { o[0] = x[threadIdx.x]; }

void blocks_write_one(const float* x, float* o) { o[threadIdx.x] = x[threadIdx.x] + static_cast<float>(blockIdx.x); }

void block_reads_another(const float* x, float* o) {
  if (blockIdx.x == 0) {
    o[threadIdx.x] = x[threadIdx.x];
  } else if (o[threadIdx.x] > 100.f) {
    atomicAdd(o, 1.f);
  }
}

void atomic_and_plain(const float* x, float* o) {
  if (threadIdx.x == 0) o[0] = x[0];
  if (threadIdx.x != 0) atomicAdd(o, x[threadIdx.x]);
}

void misaligned_vector(const float* x, float* o) {
  if (threadIdx.x >= 8) return;
  const float4 v = *reinterpret_cast<const float4*>(x + 1 + 4 * threadIdx.x);
  o[threadIdx.x] = v.x + v.w;
}

void write_to_input(const float* x, float* o) {
  const_cast<float*>(x)[threadIdx.x] = 1;
  o[threadIdx.x] = 1;
}

void null_pointer(const float* x, float* o) {
  const float* nowhere = x[0] > 1e30f ? x : nullptr;
  o[threadIdx.x] = nowhere[threadIdx.x];
}

void endless(const float*, float* o) {
  while (atomicAdd(o, 0.f) < 1.f) {
  }
}

void much_shared(const float* x, float* o) {
  SIMT_SHARED(float, s, 13 << 10);
  s[threadIdx.x] = x[threadIdx.x];
  o[threadIdx.x] = s[threadIdx.x];
}

void halves_without_barrier(const float* x, float* o) {
  SIMT_SHARED(__half, s, n);
  s[threadIdx.x] = __float2half_rn(0);
  __syncthreads();
  s[threadIdx.x] = __float2half_rn(x[threadIdx.x]);
  s[threadIdx.x] = __float2half_rn(__half2float(s[threadIdx.x]) + __half2float(s[threadIdx.x ^ 1]));
  __syncthreads();
  o[threadIdx.x] = __half2float(s[threadIdx.x]);
}

void two_write_a_half(const float* x, float* o) {
  auto* h = reinterpret_cast<__half*>(o);
  if (threadIdx.x < 3) h[threadIdx.x == 1 ? 1 : 0] = __float2half_rn(x[threadIdx.x]);
}

void first_comer_clears(const float* x, float* o) {
  if (atomicAdd(reinterpret_cast<unsigned*>(o + 1), 1u) == 0) o[0] = 0.f;
  atomicAdd(o, x[threadIdx.x]);
}

void last_block_without_fence(const float* x, float* o) {
  SIMT_SHARED(bool, last, 1);
  if (threadIdx.x == 0) {
    atomicAdd(o, x[1]);
    last[0] = atomicAdd(reinterpret_cast<unsigned*>(o + 1), 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last[0] && threadIdx.x == 0) o[2] = o[0];
}

void last_thread_reads(const float*, float* o) {
  SIMT_SHARED(unsigned, s, 1);
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  if (atomicAdd(s, 1u) == n - 1) o[0] = static_cast<float>(s[0]);
}

void all_read_last_block_writes(const float*, float* o) {
  SIMT_SHARED(bool, last, 1);
  const float v = o[0];
  __syncthreads();
  if (threadIdx.x == 0) last[0] = atomicAdd(reinterpret_cast<unsigned*>(o + 1), 1u) == gridDim.x - 1;
  __syncthreads();
  if (last[0] && threadIdx.x == 0) o[0] = v + 1;
}

void other_warp_reads(const float* x, float* o) {
  SIMT_SHARED(float, s, 1);
  if (threadIdx.x == 0) s[0] = x[0];
  __syncthreads();
  const float v = s[0];
  if (threadIdx.x < 32) {
    __syncwarp();
    if (threadIdx.x == 0) s[0] = v + 1;
  }
  o[threadIdx.x] = v;
}

void before_a_half(const float*, float* o) {
  auto* h = reinterpret_cast<__half*>(o) - 1;
  h[threadIdx.x] = __float2half_rn(1);
}

// clang-format off
void two_barriers_of_a_line(const float* x, float* o) {
  if (threadIdx.x % 2 == 1) __syncthreads(); else __syncthreads();
  o[threadIdx.x] = x[threadIdx.x];
}
// clang-format on

void shuffle_of_odd_width(const float* x, float* o) {
  o[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], 3, 12);
}

void shuffle_by_less_than_nothing(const float* x, float* o) {
  o[threadIdx.x] = __shfl_down_sync(0xffffffffu, x[threadIdx.x], -1);
}

float of_the_host[4] = {1, 2, 3, 4};
void host_memory(const float*, float* o) { o[threadIdx.x] = of_the_host[threadIdx.x % 4]; }

void local_of_another(const float* x, float* o) {
  SIMT_SHARED(float*, p, 1);
  float own[2] = {x[threadIdx.x], 1};
  if (threadIdx.x == 0) p[0] = own;
  __syncthreads();
  o[threadIdx.x] = p[0][0];
  __syncthreads();
  o[threadIdx.x] += own[1];
}

void endless_vote(const float* x, float* o) {
  while (__any_sync(0xffffffffu, 1)) {
  }
  o[threadIdx.x] = x[threadIdx.x];
}

void count_to_ten(const float*, float* o) {
  auto* count = reinterpret_cast<unsigned*>(o);
  if (atomicAdd(count, 0u) < 10u) atomicAdd(count, 1u);
  __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(count, 0u) > 10u) o[-1] = 0;  // only where others came between
}

// --- correct ---------------------------------------------------------------------------------------------------------

void with_barriers(const float* x, float* o) {
  SIMT_SHARED(float, s, n);
  for (int round = 0; round < 2; ++round) {
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    o[threadIdx.x] = s[n - 1 - threadIdx.x];
    __syncthreads();
  }
}

void with_syncwarp(const float* x, float* o) {
  SIMT_SHARED(float, s, 32);
  s[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  o[threadIdx.x] = s[31 - threadIdx.x];
}

void with_atomics(const float* x, float* o) { atomicAdd(o, x[threadIdx.x]); }

void with_half_mask(const float* x, float* o) {
  if (threadIdx.x < 16) o[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 8);
}

void neighbouring_bytes(const float* x, float* o) {
  reinterpret_cast<unsigned char*>(o)[threadIdx.x] = static_cast<unsigned char>(x[threadIdx.x]);
}

void own_vectors(const float* x, float* o) {
  if (threadIdx.x < 16) reinterpret_cast<float4*>(o)[threadIdx.x] = reinterpret_cast<const float4*>(x)[threadIdx.x];
}

void votes(const float* x, float* o) {
  const unsigned ballot = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
  const int count = __syncthreads_count(threadIdx.x % 2), any = __syncthreads_or(threadIdx.x == 5);
  const int all = __syncthreads_and(threadIdx.x < 64);
  const int sum = __reduce_add_sync(0xffffffffu, static_cast<int>(threadIdx.x) - 40);
  const int least = __reduce_min_sync(0xffffffffu, static_cast<int>(threadIdx.x) - 40);
  const unsigned same = __match_any_sync(0xffffffffu, threadIdx.x % 4);
  const bool right = ballot == (threadIdx.x < 32 ? 0x49249249u : 0x92492492u) && count == 32 && any == 1 && all == 1 &&
                     sum == (threadIdx.x < 32 ? -784 : 240) && least == (threadIdx.x < 32 ? -40 : -8) &&
                     same == 0x11111111u << threadIdx.x % 4;
  o[threadIdx.x] = right ? x[threadIdx.x] : 1e30f;
}

void pairs_between_words(const float* x, float* o) {
  struct Pair {
    float score;
    int id;
  };
  if (threadIdx.x < 8) o[threadIdx.x] = reinterpret_cast<const Pair*>(x + 1)[threadIdx.x].score;
}

void neighbouring_halves(const float* x, float* o) {
  auto* h = reinterpret_cast<__half*>(o);
  h[threadIdx.x] = __float2half_rn(x[threadIdx.x]);
  __syncthreads();
  h[threadIdx.x + n] = h[n - 1 - threadIdx.x];
}

void ascending_after_barriers(const float* x, float* o) {
  SIMT_SHARED(unsigned, next, 1);
  if (threadIdx.x == 0) next[0] = 0;
  __syncthreads();
  __syncwarp();
  const unsigned turn = atomicAdd(next, 1u);
  o[threadIdx.x] = x[threadIdx.x] * static_cast<float>(turn);
}

struct Planted {
  const char* name;
  void (*kernel)(const float*, float*);
  unsigned grid, block;
  size_t shared;
  const char* expected;  // in the finding, as a regular expression; empty: no finding
};

#define CASE(kernel, grid, block, shared, expected) {#kernel, kernel, grid, block, shared, expected}
const Planted planted[] = {
    CASE(no_barrier, 1, n, 0, "data race .(write, then read|read, then write). on shared array s"),
    CASE(no_second_barrier, 1, n, 0, "data race"),
    CASE(no_syncwarp, 1, 32, 0, "data race"),
    CASE(shuffle_as_barrier, 1, 32, 0, "data race|never written"),
    CASE(half_a_barrier, 1, n, 0, "divergent barrier"),
    CASE(return_before_barrier, 1, n, 0, "divergent barrier"),
    CASE(two_barriers, 1, n, 0, "divergent barrier"),
    CASE(half_a_shuffle, 1, 32, 0, "deadlock|warp operation"),
    CASE(shuffle_with_the_gone, 1, n, 0, "deadlock|has exited"),
    CASE(shuffle_beyond_mask, 1, 32, 0, "reads lane 16, which is not in the mask"),
    CASE(mask_without_caller, 1, 32, 0, "the mask leaves out the calling lane"),
    CASE(two_operations, 1, 32, 0, "lanes meet in different ones"),
    CASE(read_beyond_end, 2, n, 0, "out of bounds: byte .* of x, which has 256"),
    CASE(write_beyond_end, 2, n, 0, "out of bounds: byte .* of o, which has 256"),
    CASE(vector_beyond_end, 1, 16, 0, "out of bounds: byte 256 of x, which has 256"),
    CASE(shared_beyond_end, 1, n, 0, "out of bounds: byte .* of shared array s, which has 128"),
    CASE(dynamic_beyond_end, 1, n, 128, "out of bounds: byte .* of dynamic shared memory, which has 128"),
    CASE(local_beyond_end, 1, n, 0, "array index [4-7] out of bounds"),
    CASE(shared_never_written, 1, n, 0,
         "reads what was never written: shared array s at byte 252: .*planted.cpp:[0-9]+"),
    CASE(shared_of_another_block, 2, n, 0, "reads what was never written: shared array s"),
    CASE(fresh_read, 1, n, 0, "reads what was never written: o"),
    CASE(all_write_one, 1, n, 0, "data race .two writes. on o .* of the same block"),
    CASE(blocks_write_one, 2, n, 0, "data race .two writes. on o .* of another block"),
    CASE(block_reads_another, 2, n, 0, "of another block"),
    CASE(atomic_and_plain, 1, n, 0, "data race"),
    CASE(misaligned_vector, 1, n, 0, "misaligned"),
    CASE(write_to_input, 1, n, 0, "writes to x, which is only read"),
    CASE(null_pointer, 1, n, 0, "null pointer"),
    CASE(endless, 1, 1, 0, "an endless loop"),
    CASE(much_shared, 1, n, 0, "more than 48 KiB of shared memory"),
    CASE(halves_without_barrier, 1, n, 0, "data race"),
    CASE(two_write_a_half, 1, n, 0, "data race .two writes."),
    CASE(first_comer_clears, 1, n, 0, "data race"),
    CASE(last_block_without_fence, 4, n, 0, "data race .*of another block"),
    CASE(last_thread_reads, 1, n, 0, "data race"),
    CASE(all_read_last_block_writes, 4, n, 0, "data race .*of another block"),
    CASE(other_warp_reads, 1, n, 0, "data race"),
    CASE(before_a_half, 1, n, 0, "out of bounds: byte -2 of o"),
    CASE(two_barriers_of_a_line, 1, n, 0, "divergent barrier"),
    CASE(shuffle_of_odd_width, 1, 32, 0, "by 3 within 12 lanes is not defined"),
    CASE(shuffle_by_less_than_nothing, 1, 32, 0, "by -1 within 32 lanes is not defined"),
    CASE(host_memory, 1, n, 0, "out of bounds of every buffer"),
    CASE(local_of_another, 1, n, 0, "local memory of another thread"),
    CASE(endless_vote, 1, 32, 0, "an endless loop"),
    CASE(count_to_ten, 1, 32, 0, "out of bounds"),
    CASE(with_barriers, 1, n, 0, ""),
    CASE(pairs_between_words, 1, n, 0, ""),
    CASE(neighbouring_halves, 1, n, 0, ""),
    CASE(ascending_after_barriers, 1, 32, 0, ""),
    CASE(with_syncwarp, 1, 32, 0, ""),
    CASE(with_atomics, 2, n, 0, ""),
    CASE(with_half_mask, 1, 32, 0, ""),
    CASE(neighbouring_bytes, 1, n, 0, ""),
    CASE(own_vectors, 1, n, 0, ""),
    CASE(votes, 1, n, 0, ""),
};

// On the heap and far apart: what lies beyond an end must belong to nobody.
constexpr int apart = 1 << 16;
const std::unique_ptr<float, decltype(&free)> memory{static_cast<float*>(aligned_alloc(256, 4 * apart)), &free};

// Kernels that read o first, to which it must have been written.
bool needs_written(const Planted& p) {
  return p.kernel == with_atomics || p.kernel == endless || p.kernel == shared_of_another_block ||
         p.kernel == block_reads_another || p.kernel == atomic_and_plain || p.kernel == first_comer_clears ||
         p.kernel == last_block_without_fence || p.kernel == all_read_last_block_writes || p.kernel == count_to_ten;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int planted_count() { return static_cast<int>(std::size(planted)); }
__attribute__((visibility("default"))) const char* planted_name(int i) { return planted[i].name; }
__attribute__((visibility("default"))) const char* planted_expected(int i) { return planted[i].expected; }
__attribute__((visibility("default"))) int planted_is_checked() { return simt::is_checked_build(); }

// The finding in `text`, empty without; the sum of o.
__attribute__((visibility("default"))) float planted_run(int i, int order, unsigned long seed, char* text, int size) {
  const Planted& p = planted[i];
  float *x = memory.get() + apart / 4, *o = x + apart / 2;
  for (int j = 0; j < n; ++j) {
    x[j] = static_cast<float>(j);
    o[j] = 0;
  }
  simt::options() = {};
  simt::options().order = static_cast<simt::Order>(order);
  simt::options().seed = seed;
  simt::options().most_operations = 1 << 16;
  simt::forget_buffers();
  simt::register_buffer(x, n * sizeof *x, false, false, "x");
  simt::register_buffer(o, n * sizeof *o, true, !needs_written(p), "o");
  text[0] = 0;
  try {
    simt::launch(p.name, p.kernel, p.grid, p.block, p.shared, x, o);
  } catch (const std::runtime_error& error) {
    snprintf(text, static_cast<size_t>(size), "%s", error.what());
  }
  simt::forget_buffers();
  of_the_host[0] = 2;  // no constant
  float sum = 0;
  for (int j = 0; j < n; ++j) sum += o[j];
  return sum;
}

}  // extern "C"

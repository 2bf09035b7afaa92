// CUDA as a kernel's source sees it, executed on the CPU: every thread of a block is a fiber, blocks run one after the
// other. Compile the kernels with g++ and this header instead of CUDA's, and link emulator/*.cpp. See README.md.
//
// Two builds of the kernels: fast (as they are), and checked (-fsanitize=thread,bounds,alignment,null without the
// sanitizers' libraries), where every access to memory reaches a shadow memory that knows blocks, threads and barriers.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "half.h"
#include "vectors.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

using cudaStream_t = void*;

namespace simt {

// --- for kernels, behind CUDA's names below --------------------------------------------------------------------------

// Calls into the emulator are not instrumented and not inlined: fibers change inside them.
#define SIMT_CALL __attribute__((no_sanitize("thread"), noinline))

using Location = std::source_location;

enum class WarpOperation {
  none,
  sync,
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  match_any,
  reduce_add,
  reduce_min,
  reduce_max,
  reduce_and,
  reduce_or,
  reduce_xor
};
enum class Vote { none, count, all, any };

// A value on its way between lanes; `is_signed` tells how a reduction compares.
struct Slot {
  uint64_t words[2] = {0, 0};
  bool is_signed = false;
};

SIMT_CALL uint3 thread_index();
SIMT_CALL uint3 block_index();
SIMT_CALL dim3 block_size();
SIMT_CALL dim3 grid_size();
SIMT_CALL int barrier(Vote vote, int predicate, const Location& where);
SIMT_CALL Slot warp_operation(WarpOperation operation, unsigned mask, Slot value, int argument, int width,
                              const Location& where);
SIMT_CALL void atomic_access(void* address, int bytes, const Location& where);
SIMT_CALL void* shared_array(const void* tag, size_t bytes, size_t alignment, const char* name);
SIMT_CALL void* dynamic_shared();

template <class T>
Slot to_slot(T value) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  Slot slot;
  memcpy(slot.words, &value, sizeof(T));
  slot.is_signed = std::is_signed_v<T>;
  return slot;
}

template <class T>
T from_slot(const Slot& slot) {
  T value;
  memcpy(&value, slot.words, sizeof(T));
  return value;
}

// --- for whoever launches --------------------------------------------------------------------------------------------

// Runs run(context) as the kernel to its end. 0, or CUDA's error code for a configuration that no GPU takes; throws
// std::runtime_error with a finding.
int launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared_bytes, void (*run)(void*), void* context);

// kernel(arguments...), as kernel<<<grid, block, dynamic_shared_bytes>>>(arguments...).
template <class... Parameters, class... Arguments>
int launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
           Arguments... arguments) {
  auto call = [&]() __attribute__((no_sanitize("thread"))) { kernel(static_cast<Parameters>(arguments)...); };
  return launch(
      name, grid, block, dynamic_shared_bytes,
      [](void* context) __attribute__((no_sanitize("thread"))) { (*static_cast<decltype(call)*>(context))(); }, &call);
}

enum class Order { ascending, descending, random };

struct Options {
  Order order = Order::ascending;         // of blocks and of threads that are ready
  uint64_t seed = 1;                      // of Order::random
  bool traffic = false;                   // count sectors and bank conflicts (checked build)
  uint64_t most_operations = 1ull << 32;  // accesses, barriers, warp operations of a launch: beyond, it is a loop
  size_t stack_bytes = 64 << 10;
};
Options& options();

// Memory that kernels may touch (checked build). `fresh`: nothing has been written to it yet.
void register_buffer(const void* data, size_t bytes, bool writable, bool fresh, const char* name);
void mark_written(const void* data, size_t bytes);
void forget_buffers();

bool is_checked_build();

}  // namespace simt

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_size())
#define gridDim (::simt::grid_size())
inline constexpr int warpSize = 32;

// In place of `__shared__ T name[count]` and `extern __shared__ T name[]`.
#define SIMT_SHARED(T, name, count)     \
  static const char name##_is_here = 0; \
  T* const name = static_cast<T*>(::simt::shared_array(&name##_is_here, sizeof(T) * (count), alignof(T), #name))
#define SIMT_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::simt::dynamic_shared())

#define SIMT_WHERE ::simt::Location where = ::simt::Location::current()

inline void __syncthreads(SIMT_WHERE) { simt::barrier(simt::Vote::none, 0, where); }
inline int __syncthreads_count(int predicate, SIMT_WHERE) { return simt::barrier(simt::Vote::count, predicate, where); }
inline int __syncthreads_and(int predicate, SIMT_WHERE) { return simt::barrier(simt::Vote::all, predicate, where); }
inline int __syncthreads_or(int predicate, SIMT_WHERE) { return simt::barrier(simt::Vote::any, predicate, where); }

inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_WHERE) {
  simt::warp_operation(simt::WarpOperation::sync, mask, {}, 0, 32, where);
}

#define SIMT_SHUFFLE(name, operation)                                                                              \
  template <class T>                                                                                               \
  T name(unsigned mask, T value, int argument, int width = 32, SIMT_WHERE) {                                       \
    return simt::from_slot<T>(                                                                                     \
        simt::warp_operation(simt::WarpOperation::operation, mask, simt::to_slot(value), argument, width, where)); \
  }
SIMT_SHUFFLE(__shfl_sync, shuffle)
SIMT_SHUFFLE(__shfl_up_sync, shuffle_up)
SIMT_SHUFFLE(__shfl_down_sync, shuffle_down)
SIMT_SHUFFLE(__shfl_xor_sync, shuffle_xor)
#undef SIMT_SHUFFLE

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_WHERE) {
  const auto slot = simt::to_slot<int>(predicate != 0);
  return simt::from_slot<unsigned>(simt::warp_operation(simt::WarpOperation::ballot, mask, slot, 0, 32, where));
}
inline int __any_sync(unsigned mask, int predicate, SIMT_WHERE) { return __ballot_sync(mask, predicate, where) != 0; }
inline int __all_sync(unsigned mask, int predicate, SIMT_WHERE) {
  return __ballot_sync(mask, predicate, where) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, SIMT_WHERE) {
  const auto slot = simt::to_slot(value);
  return simt::from_slot<unsigned>(simt::warp_operation(simt::WarpOperation::match_any, mask, slot, 0, 32, where));
}

#define SIMT_REDUCTION(name, operation, Requirement)                                                         \
  template <class T>                                                                                         \
  T name(unsigned mask, T value, SIMT_WHERE) {                                                               \
    static_assert(sizeof(T) == 4 && std::is_integral_v<T> && (Requirement), #name " takes 32-bit integers"); \
    return simt::from_slot<T>(                                                                               \
        simt::warp_operation(simt::WarpOperation::operation, mask, simt::to_slot(value), 0, 32, where));     \
  }
SIMT_REDUCTION(__reduce_add_sync, reduce_add, true)
SIMT_REDUCTION(__reduce_min_sync, reduce_min, true)
SIMT_REDUCTION(__reduce_max_sync, reduce_max, true)
SIMT_REDUCTION(__reduce_and_sync, reduce_and, std::is_unsigned_v<T>)
SIMT_REDUCTION(__reduce_or_sync, reduce_or, std::is_unsigned_v<T>)
SIMT_REDUCTION(__reduce_xor_sync, reduce_xor, std::is_unsigned_v<T>)
#undef SIMT_REDUCTION

// Blocks and threads take turns, so a plain read and write is atomic.
#define SIMT_ATOMIC(name, result)                                           \
  template <class T>                                                        \
  SIMT_CALL T name(T* address, std::type_identity_t<T> value, SIMT_WHERE) { \
    simt::atomic_access(address, sizeof(T), where);                         \
    const T old = *address;                                                 \
    *address = static_cast<T>(result);                                      \
    return old;                                                             \
  }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMax, std::max(old, value))
SIMT_ATOMIC(atomicMin, std::min(old, value))
SIMT_ATOMIC(atomicExch, value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicAnd, old& value)
#undef SIMT_ATOMIC

template <class T>
SIMT_CALL T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value, SIMT_WHERE) {
  simt::atomic_access(address, sizeof(T), where);
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
void __stwb(T* address, T value) {
  *address = value;
}
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }

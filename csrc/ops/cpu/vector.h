// Numbers in registers, for sums that must stay there through a loop over memory: an array would be put on the stack.
// A register's worth of memory becomes one vector of floats or doubles; or, of 16-bit floats, two vectors: the even and
// the odd elements, which is how they come out of 32-bit words without shuffling, or the two halves in order.
// Passed by reference only: by value their passing depends on the instruction set.
#pragma once

#include <type_traits>
#include <utility>

#include "ops/cpu/element.h"
#include "ops/cpu/target.h"

// Every level with 32 bytes or more has instructions that convert half; their intrinsics cannot be used in templates
// that are inlined into functions of several levels, but what they call can.
#if defined(__x86_64__) && !defined(__clang__) && (DMREC_HAS_CLONES || defined(__F16C__))
#include <immintrin.h>
#define DMREC_CONVERTS_HALF 1
#else
#define DMREC_CONVERTS_HALF 0
#endif

namespace dmrec::cpu {

template <class T, int bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};

// The sum of the elements: the upper half is added to the lower one until one is left.
template <class T, int bytes>
DMREC_FN T tree_sum(const typename VectorOf<T, bytes>::type& v) {
  if constexpr (bytes == 16) {
    if constexpr (sizeof(T) == 8)
      return v[0] + v[1];
    else
      return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    typename VectorOf<T, bytes / 2>::type halves[2];
    memcpy(halves, &v, bytes);
    halves[0] += halves[1];
    return tree_sum<T, bytes / 2>(halves[0]);
  }
}

// Elements in order, converted to T: together, as GCC 12 converts the floats of one whole register best.
template <class T, class Stored, class Vector, int n>
DMREC_FN void load_as(const Stored* from, Vector (&to)[n]) {
  constexpr int count = n * sizeof(Vector) / sizeof(T);
  if constexpr (std::is_same_v<Stored, T>) {
    memcpy(to, from, sizeof(to));
  } else {
    typename VectorOf<float, 4 * count>::type floats;
    if constexpr (sizeof(Stored) == 4) {
      memcpy(&floats, from, sizeof(floats));
    } else {
      typename VectorOf<uint16_t, 2 * count>::type words;
      memcpy(&words, from, sizeof(words));
      widen(__builtin_convertvector(words, typename VectorOf<uint32_t, 4 * count>::type), floats, from);
    }
    const auto converted = __builtin_convertvector(floats, typename VectorOf<T, sizeof(T) * count>::type);
    memcpy(to, &converted, sizeof(to));
  }
}

// Two vectors whose elements take turns in memory, and back.
template <class Vector, size_t... i>
DMREC_FN void interleave(const Vector (&from)[2], Vector (&to)[2], std::index_sequence<i...>) {
  constexpr size_t n = sizeof...(i);
  to[0] = __builtin_shufflevector(from[0], from[1], (i / 2 + i % 2 * n)...);
  to[1] = __builtin_shufflevector(from[0], from[1], ((n + i) / 2 + i % 2 * n)...);
}

template <class Vector, size_t... i>
DMREC_FN void deinterleave(const Vector (&from)[2], Vector (&to)[2], std::index_sequence<i...>) {
  to[0] = __builtin_shufflevector(from[0], from[1], (2 * i)...);
  to[1] = __builtin_shufflevector(from[0], from[1], (2 * i + 1)...);
}

// In memory, a piece's elements are stored ones or, as many and in order, the floats that are computed with.
template <class Stored, int bytes>
struct Piece {
  using T = typename Element<Stored>::Arithmetic;
  using Vector = typename VectorOf<T, bytes>::type;
  using Words = typename VectorOf<uint32_t, bytes>::type;
  static constexpr int elements = bytes / sizeof(Stored);
  static constexpr int vectors = sizeof(T) / sizeof(Stored);
  static constexpr bool converted = DMREC_CONVERTS_HALF && std::is_same_v<Stored, c10::Half> && bytes >= 32;

  template <class Memory>
  DMREC_FN static void load(const Memory* from, Vector (&to)[vectors]) {
    if constexpr (!std::is_same_v<Memory, Stored>) {
      Vector ordered[vectors];
      static_assert(std::is_same_v<Memory, T>);
      memcpy(ordered, from, sizeof(ordered));
      if constexpr (converted) {
        memcpy(to, ordered, sizeof(ordered));
      } else {
        deinterleave(ordered, to, std::make_index_sequence<bytes / sizeof(T)>{});
      }
    } else if constexpr (vectors == 1) {
      memcpy(&to[0], from, bytes);
    } else if constexpr (converted) {
      for (int i = 0; i < vectors; ++i) convert(from + i * (elements / vectors), to[i]);
    } else {
      Words words;
      memcpy(&words, from, bytes);
      widen(words & 0xffffu, to[0], from);
      widen(words >> 16, to[1], from);
    }
  }

  template <class Memory>
  DMREC_FN static void store(const Vector (&from)[vectors], Memory* to) {
    if constexpr (!std::is_same_v<Memory, Stored>) {
      Vector ordered[vectors];
      static_assert(std::is_same_v<Memory, T>);
      if constexpr (converted) {
        memcpy(ordered, from, sizeof(ordered));
      } else {
        interleave(from, ordered, std::make_index_sequence<bytes / sizeof(T)>{});
      }
      memcpy(to, ordered, sizeof(ordered));
    } else if constexpr (vectors == 1) {
      memcpy(to, &from[0], bytes);
    } else if constexpr (converted) {
      for (int i = 0; i < vectors; ++i) convert(from[i], to + i * (elements / vectors));
    } else {
      Words even, odd;
      narrow(from[0], even, to);
      narrow(from[1], odd, to);
      even |= odd << 16;
      memcpy(to, &even, bytes);
    }
  }

 private:
#if DMREC_CONVERTS_HALF
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"  // nothing is passed or returned: both are inlined
  using Halves = typename VectorOf<short, bytes / 2>::type;
  static constexpr int to_nearest = 0, as_set = 4;

  DMREC_FN static void convert(const Stored* from, Vector& to) {
    Halves halves;
    memcpy(&halves, from, sizeof(halves));
    if constexpr (bytes == 64) {
      to = __builtin_ia32_vcvtph2ps512_mask(halves, Vector{}, -1, as_set);
    } else {
      to = __builtin_ia32_vcvtph2ps256(halves);
    }
  }

  DMREC_FN static void convert(const Vector& from, Stored* to) {
    Halves halves;
    if constexpr (bytes == 64) {
      halves = __builtin_ia32_vcvtps2ph512_mask(from, to_nearest, Halves{}, -1);
    } else {
      halves = __builtin_ia32_vcvtps2ph256(from, to_nearest);
    }
    memcpy(to, &halves, sizeof(halves));
  }
#pragma GCC diagnostic pop
#endif
};

}  // namespace dmrec::cpu

// Numbers in registers, for sums that must stay there through a loop over memory: an array would be put on the stack.
// A register's worth of memory becomes one vector of floats or doubles; or, of 16-bit floats, two vectors, the even and
// the odd elements, which is how they come out of 32-bit words without shuffling.
// Passed by reference only: by value their passing depends on the instruction set.
#pragma once

#include "ops/cpu/element.h"

namespace dmrec::cpu {

template <class T, int bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};

template <class Stored, int bytes>
struct Piece {
  using T = typename Element<Stored>::Arithmetic;
  using Vector = typename VectorOf<T, bytes>::type;
  using Words = typename VectorOf<uint32_t, bytes>::type;
  static constexpr int elements = bytes / sizeof(Stored);
  static constexpr int vectors = sizeof(T) / sizeof(Stored);

  DMREC_FN static void load(const Stored* from, Vector (&to)[vectors]) {
    if constexpr (vectors == 1) {
      memcpy(&to[0], from, bytes);
    } else {
      Words words;
      memcpy(&words, from, bytes);
      widen(words & 0xffffu, to[0], from);
      widen(words >> 16, to[1], from);
    }
  }

  DMREC_FN static void store(const Vector (&from)[vectors], Stored* to) {
    if constexpr (vectors == 1) {
      memcpy(to, &from[0], bytes);
    } else {
      Words even, odd;
      narrow(from[0], even, to);
      narrow(from[1], odd, to);
      even |= odd << 16;
      memcpy(to, &even, bytes);
    }
  }
};

}  // namespace dmrec::cpu

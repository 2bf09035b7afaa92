// Elements in memory and in arithmetic: 16-bit floats are computed with in float32, everything else as it is.
#pragma once

#include <cstring>
#include <type_traits>

#include "math/elementary.h"
#include "ops/cuda/device.h"

namespace dmrec::cuda {

template <class Stored>
struct Element {
  using Arithmetic = Stored;
  DMREC_FN static Stored value(Stored x) { return x; }
  DMREC_FN static Stored stored(Stored x) { return x; }
};

template <>
struct Element<__half> {
  using Arithmetic = float;
  DMREC_FN static float value(__half x) { return __half2float(x); }
  DMREC_FN static __half stored(float x) { return __float2half_rn(x); }
};

template <>
struct Element<__nv_bfloat16> {
  using Arithmetic = float;
  DMREC_FN static float value(__nv_bfloat16 x) { return __bfloat162float(x); }
  DMREC_FN static __nv_bfloat16 stored(float x) { return __float2bfloat16_rn(x); }
};

template <class Stored>
using ArithmeticOf = typename Element<Stored>::Arithmetic;

// Elements that 16 bytes hold: what a thread reads or writes at once.
template <class Stored>
constexpr int piece = 16 / static_cast<int>(sizeof(Stored));

// The first `left` of a piece, 0 for the rest: one access where the piece is whole and aligned.
template <class Stored, class T>
__device__ __forceinline__ void load_piece(const Stored* from, int64_t left, bool aligned, T (&x)[piece<Stored>]) {
  if (aligned && left >= piece<Stored>) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    Stored stored[piece<Stored>];
    memcpy(stored, words, sizeof words);
    DMREC_UNROLL
    for (int i = 0; i < piece<Stored>; ++i) x[i] = static_cast<T>(Element<Stored>::value(stored[i]));
  } else {
    DMREC_UNROLL
    for (int i = 0; i < piece<Stored>; ++i) x[i] = i < left ? static_cast<T>(Element<Stored>::value(from[i])) : T(0);
  }
}

template <class Stored, class T>
__device__ __forceinline__ void store_piece(Stored* to, int64_t left, bool aligned, const T (&x)[piece<Stored>]) {
  if (aligned && left >= piece<Stored>) {
    Stored stored[piece<Stored>];
    DMREC_UNROLL
    for (int i = 0; i < piece<Stored>; ++i) stored[i] = Element<Stored>::stored(x[i]);
    uint32_t words[4];
    memcpy(words, stored, sizeof words);
    // spelled out: as an assignment the compiler may split it, to share code with the other branch
    __stwb(reinterpret_cast<uint4*>(to), make_uint4(words[0], words[1], words[2], words[3]));
  } else {
    DMREC_UNROLL
    for (int i = 0; i < piece<Stored>; ++i) {
      if (i < left) to[i] = Element<Stored>::stored(x[i]);
    }
  }
}

// n elements, a multiple of what a piece holds.
template <int n, class Stored, class T>
__device__ __forceinline__ void load_pieces(const Stored* from, int64_t left, bool aligned, T (&x)[n]) {
  static_assert(n % piece<Stored> == 0);
  DMREC_UNROLL
  for (int p = 0; p < n; p += piece<Stored>) {
    T part[piece<Stored>];
    load_piece(from + p, left - p, aligned, part);
    DMREC_UNROLL
    for (int e = 0; e < piece<Stored>; ++e) x[p + e] = part[e];
  }
}

template <int n, class Stored, class T>
__device__ __forceinline__ void store_pieces(Stored* to, int64_t left, bool aligned, const T (&x)[n]) {
  static_assert(n % piece<Stored> == 0);
  DMREC_UNROLL
  for (int p = 0; p < n; p += piece<Stored>) {
    T part[piece<Stored>];
    DMREC_UNROLL
    for (int e = 0; e < piece<Stored>; ++e) part[e] = x[p + e];
    store_piece(to + p, left - p, aligned, part);
  }
}

// body.template operator()<Stored>() with the C++ type of a dtype
template <class Body>
int with_stored_type(Type type, const Body& body) {
  switch (type) {
    case Type::float32: return body.template operator()<float>();
    case Type::float64: return body.template operator()<double>();
    case Type::float16: return body.template operator()<__half>();
    default: return body.template operator()<__nv_bfloat16>();
  }
}

// body.template operator()<Stored, Other>() where the other dtype is the same, or that of its arithmetic
template <class Body>
int with_stored_types(Type type, Type other, const Body& body) {
  return with_stored_type(type, [&]<class Stored>() {
    if constexpr (!std::is_same_v<Stored, ArithmeticOf<Stored>>) {
      if (other != type) return body.template operator()<Stored, ArithmeticOf<Stored>>();
    }
    return body.template operator()<Stored, Stored>();
  });
}

}  // namespace dmrec::cuda

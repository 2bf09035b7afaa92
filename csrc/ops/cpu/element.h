// Elements in memory and in arithmetic: 16-bit floats are computed with in float32, everything else as it is.
// The conversions are integer arithmetic without branches, so that loops over them vectorise on every x86-64; they take
// numbers, or vectors of them. 16-bit floats come and go as the low half of 32-bit words.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "math/elementary.h"

namespace dmrec::cpu {

template <class To, class From>
DMREC_FN void copy_bits(const From& from, To& to) {
  static_assert(sizeof(To) == sizeof(From));
  memcpy(&to, &from, sizeof(To));
}

// The last argument only tells the kind of float.
template <class Bits, class Float>
DMREC_FN void widen(const Bits& word, Float& result, const c10::BFloat16*) {
  const Bits bits = word << 16;
  copy_bits(bits, result);
}

template <class Bits, class Float>
DMREC_FN void widen(const Bits& word, Float& result, const c10::Half*) {
  const Bits magnitude = word & 0x7fffu, shifted = magnitude << 13;
  Float finite;
  copy_bits(shifted, finite);
  finite *= 0x1p112f;  // subnormals become normal in the product
  Bits bits;
  copy_bits(finite, bits);
  bits = magnitude >= 0x7c00u ? shifted | 0x7f800000u : bits;
  bits |= (word & 0x8000u) << 16;
  copy_bits(bits, result);
}

template <class Bits, class Float>
DMREC_FN void narrow(const Float& value, Bits& result, const c10::BFloat16*) {
  Bits bits;
  copy_bits(value, bits);
  const Bits nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // ties to even
  result = (bits & 0x7fffffffu) > 0x7f800000u ? nearest * 0u + 0x7fc0u : nearest;
}

template <class Bits, class Float>
DMREC_FN void narrow(const Float& value, Bits& result, const c10::Half*) {
  Bits bits;
  copy_bits(value, bits);
  const Bits magnitude = bits & 0x7fffffffu, none = magnitude * 0u;
  const Bits rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);  // ties to even
  const Bits normal = (rounded >> 13) - (112u << 10);
  // Below 2^-14: adding 1/2 shifts the bits to where a float's mantissa ends, rounded by the addition itself.
  Float shifted;
  copy_bits(magnitude, shifted);
  shifted += 0.5f;
  Bits subnormal;
  copy_bits(shifted, subnormal);
  subnormal -= 0x3f000000u;
  result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? none + 0x7c00u : result;
  result = magnitude > 0x7f800000u ? none + 0x7e00u : result;
  result |= bits >> 16 & 0x8000u;
}

template <class Stored>
struct Element {
  using Arithmetic = Stored;
  DMREC_FN static Stored load(const Stored* p) { return *p; }
  DMREC_FN static void store(Stored* p, Stored value) { *p = value; }
};

template <class Stored>
struct Element16Bit {
  using Arithmetic = float;
  DMREC_FN static float load(const Stored* p) {
    float result;
    widen(static_cast<uint32_t>(p->x), result, p);
    return result;
  }
  DMREC_FN static void store(Stored* p, float value) {
    uint32_t word;
    narrow(value, word, p);
    p->x = static_cast<uint16_t>(word);
  }
};

template <>
struct Element<c10::BFloat16> : Element16Bit<c10::BFloat16> {};

template <>
struct Element<c10::Half> : Element16Bit<c10::Half> {};

// A matrix whose rows have adjacent elements.
template <class Stored>
struct Rows {
  Stored* data;
  int64_t stride;  // from one row to the next, in elements
};

}  // namespace dmrec::cpu

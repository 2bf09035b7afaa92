// Elements in memory and in arithmetic: 16-bit floats are computed with in float32, everything else as it is.
// The conversions are integer arithmetic without branches, so that loops over them vectorise on every x86-64.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "math/elementary.h"

namespace dmrec::cpu {

template <class Stored>
struct Element {
  using Arithmetic = Stored;
  DMREC_FN static Stored load(const Stored* p) { return *p; }
  DMREC_FN static void store(Stored* p, Stored value) { *p = value; }
};

template <>
struct Element<c10::BFloat16> {
  using Arithmetic = float;
  DMREC_FN static float load(const c10::BFloat16* p) { return bits_of<float>(static_cast<uint32_t>(p->x) << 16); }
  DMREC_FN static void store(c10::BFloat16* p, float value) {
    const uint32_t bits = bits_of<uint32_t>(value);
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // ties to even
    p->x = static_cast<uint16_t>(value != value ? 0x7fc0u : nearest);
  }
};

template <>
struct Element<c10::Half> {
  using Arithmetic = float;
  DMREC_FN static float load(const c10::Half* p) {
    const uint32_t sign = (p->x & 0x8000u) << 16;
    const uint32_t magnitude = p->x & 0x7fffu;
    const float finite = bits_of<float>(magnitude << 13) * 0x1p112f;  // subnormals become normal in the product
    const uint32_t special = (magnitude << 13) | 0x7f800000u;
    return bits_of<float>(sign | (magnitude >= 0x7c00u ? special : bits_of<uint32_t>(finite)));
  }
  DMREC_FN static void store(c10::Half* p, float value) {
    const uint32_t bits = bits_of<uint32_t>(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);  // ties to even
    const uint32_t normal = (rounded >> 13) - (112u << 10);
    // Below 2^-14: adding 1/2 shifts the bits to where a float's mantissa ends, rounded by the addition itself.
    const uint32_t subnormal = bits_of<uint32_t>(bits_of<float>(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
    result = magnitude >= 0x477ff000u ? 0x7c00u : result;
    result = magnitude > 0x7f800000u ? 0x7e00u : result;
    p->x = static_cast<uint16_t>((bits >> 16 & 0x8000u) | result);
  }
};

}  // namespace dmrec::cpu

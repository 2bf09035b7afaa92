// CUDA's 16-bit floats: storage, and conversions that round to nearest, ties to even. Arithmetic is float's.
#pragma once

#include <bit>
#include <cstdint>

struct __half {
  uint16_t bits;
};

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half value) { return static_cast<float>(std::bit_cast<_Float16>(value.bits)); }
inline __half __float2half_rn(float value) {
  if (value != value) return {0x7fff};  // NaN, CUDA's
  return {std::bit_cast<uint16_t>(static_cast<_Float16>(value))};
}

inline float __bfloat162float(__nv_bfloat16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // NaN, CUDA's
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

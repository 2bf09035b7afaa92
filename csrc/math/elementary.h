// Exponentials for functors, on host and device: branch-free, so that loops over them vectorise, and free of
// cancellation where an equation subtracts from e^x.
//
// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2)/2, and e^r = 1 + r + tail(r), tail(r) = r^2 P(r).
// P is a minimax polynomial (error relative to e^r: 5e-11 for float, 5e-20 for double). NaN stays NaN.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define DMREC_FN __host__ __device__ __forceinline__
#else
#define DMREC_FN inline __attribute__((always_inline))
#endif

namespace dmrec {

template <class To, class From>
DMREC_FN To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

template <class T>
struct Float;

template <>
struct Float<float> {
  using Int = int32_t;
  using Unsigned = uint32_t;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float round_magic = 0x1.8p23f;             // adding it rounds to an integer in the low mantissa bits
  static constexpr float smallest = -104.f, largest = 89.5f;  // e^smallest rounds to 0, e^largest / 2 to +inf
  static constexpr float ln2_high = 0x1.63p-1f;               // few bits: n * ln2_high is exact
  static constexpr float ln2_low = -0x1.bd0106p-13f;
  static constexpr float log2_e = 0x1.715476p0f;
  DMREC_FN static float polynomial(float r) {
    float p = 0x1.9f07cfp-13f;
    p = p * r + 0x1.6d8d29p-10f;
    p = p * r + 0x1.111272p-7f;
    p = p * r + 0x1.55548ep-5f;
    p = p * r + 0x1.555554p-3f;
    return p * r + 0.5f;
  }
};

template <>
struct Float<double> {
  using Int = int64_t;
  using Unsigned = uint64_t;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double round_magic = 0x1.8p52;
  static constexpr double smallest = -746., largest = 710.5;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1;
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double log2_e = 0x1.71547652b82fep0;
  DMREC_FN static double polynomial(double r) {
    double p = 0x1.1e3d21fba13d6p-29;
    p = p * r + 0x1.af6c06383e064p-26;
    p = p * r + 0x1.27e5b46350a7fp-22;
    p = p * r + 0x1.71ddf011d109dp-19;
    p = p * r + 0x1.a01a01367b95ap-16;
    p = p * r + 0x1.a01a01b382f92p-13;
    p = p * r + 0x1.6c16c16c304c1p-10;
    p = p * r + 0x1.111111110ec55p-7;
    p = p * r + 0x1.5555555555503p-5;
    p = p * r + 0x1.555555555555bp-3;
    return p * r + 0.5;
  }
};

// e^x = 2^n (1 + r + tail)
template <class T>
struct ExpSplit {
  typename Float<T>::Int n;
  T r, tail;
};

template <class T>
DMREC_FN ExpSplit<T> exp_split(T x) {
  using F = Float<T>;
  x = x > F::largest ? F::largest : x;  // in this order a NaN passes
  x = x < F::smallest ? F::smallest : x;
  const T rounded = x * F::log2_e + F::round_magic;
  const T n = rounded - F::round_magic;
  const T r = (x - n * F::ln2_high) - n * F::ln2_low;
  using Unsigned = typename F::Unsigned;
  const Unsigned offset = bits_of<Unsigned>(rounded) - bits_of<Unsigned>(F::round_magic);
  return {static_cast<typename F::Int>(offset), r, r * r * F::polynomial(r)};
}

// x 2^n in two exact steps, so that neither factor leaves the range before the result does
template <class T>
DMREC_FN T times_power_of_two(T x, typename Float<T>::Int n) {
  using F = Float<T>;
  using Unsigned = typename F::Unsigned;
  const auto half = n >> 1;
  const auto first = static_cast<Unsigned>(half) + Unsigned{F::bias};
  const auto second = static_cast<Unsigned>(n) - static_cast<Unsigned>(half) + Unsigned{F::bias};
  return x * bits_of<T>(first << F::mantissa_bits) * bits_of<T>(second << F::mantissa_bits);
}

// e^x
template <class T>
DMREC_FN T exponential(T x) {
  const auto e = exp_split(x);
  return times_power_of_two(T(1) + (e.r + e.tail), e.n);
}

// (e^x - 1) / 2 from the parts of e^x: 2 (s (r + tail) + (s - 1/4)) with s = 2^(n-2), so that nothing is lost near 0
// and the half reaches as far as the result fits, even where e^x itself would not. Needs n > 2 - bias.
template <class T>
DMREC_FN T half_expm1(const ExpSplit<T>& e) {
  using Unsigned = typename Float<T>::Unsigned;
  const auto biased = static_cast<Unsigned>(e.n) + Unsigned{Float<T>::bias - 2};
  const T s = bits_of<T>(biased << Float<T>::mantissa_bits);
  return T(2) * (s * (e.r + e.tail) + (s - T(0.25)));
}

template <class T>
DMREC_FN T above_where_expm1_ends(T x) {
  return x < T(-40) ? T(-40) : x;  // below, e^x - 1 is -1 to the last bit
}

template <class T>
DMREC_FN T half_expm1(T x) {
  return half_expm1(exp_split(above_where_expm1_ends(x)));
}

// (e^x - 1 - x) / 2 for x = 2 half_x, never negative. Taking half of x lets the caller form x as the difference of
// two halves, which cannot overflow.
template <class T>
DMREC_FN T half_exp_gap(T half_x) {
  const auto e = exp_split(above_where_expm1_ends(T(2) * half_x));
  const T subtracted = half_x > Float<T>::largest ? Float<T>::largest : half_x;  // keeps inf - inf out
  return e.n == 0 ? T(0.5) * e.tail : half_expm1(e) - subtracted;
}

}  // namespace dmrec

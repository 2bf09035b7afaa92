// Exponentials for functors, on host and device: branch-free, so that loops over them vectorise, and free of
// cancellation where an equation subtracts from e^x.
//
// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2)/2, and e^r = 1 + r + tail(r), tail(r) = r^2 P(r).
// P is a minimax polynomial (error relative to e^r: 5e-11 for float, 5e-20 for double). NaN stays NaN.
//
// log x = n ln 2 + 2 atanh(s), s = (m - 1) / (m + 1) for x = 2^n m, m within sqrt(2) of 1, so |s| < 0.172, and
// atanh(s) = s + s^3/3 + s^5/5 + .. up to where terms pass the last digit.
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
  static constexpr float round_magic = 0x1.8p23f;         // adding it rounds to an integer in the low mantissa bits
  static constexpr float lowest = -87.f, highest = 88.f;  // 2^n is normal for e^x in between
  static constexpr float largest = 0x1.fffffep127f;
  static constexpr float beyond = 89.5f;         // e^beyond / 2 is +inf
  static constexpr float ln2_high = 0x1.63p-1f;  // few bits: n * ln2_high is exact
  static constexpr float ln2_low = -0x1.bd0106p-13f;
  static constexpr float log2_e = 0x1.715476p0f;
  static constexpr float sqrt_half = 0x1.6a09e6p-1f;
  static constexpr float smallest = 0x1p-126f;
  static constexpr float vanishing = 1e-30f;  // below, a sum of squares may have lost digits
  static constexpr int atanh_terms = 5;
  DMREC_FN static float polynomial(float r) {
    float p = 0x1.9f07dp-13f;
    p = p * r + 0x1.6d8d28p-10f;
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
  static constexpr double lowest = -708., highest = 709.;
  static constexpr double largest = 0x1.fffffffffffffp1023;
  static constexpr double beyond = 710.5;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1;
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double log2_e = 0x1.71547652b82fep0;
  static constexpr double sqrt_half = 0x1.6a09e667f3bcdp-1;
  static constexpr double smallest = 0x1p-1022;
  static constexpr double vanishing = 1e-290;
  static constexpr double small_unit = 0x1p-600, large_unit = 0x1p600;  // keep squares of all numbers in range
  static constexpr int atanh_terms = 11;
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

// x between a negative and a positive bound, on the bits: integer minima vectorise where comparisons of floats would
// turn into masks. Beyond the lower bound bits are larger as unsigned numbers, beyond the upper one as signed ones.
// NaN becomes a bound: callers let it in again.
template <class T>
DMREC_FN T clamp(T x, T lower, T upper) {
  using Unsigned = typename Float<T>::Unsigned;
  using Int = typename Float<T>::Int;
  const auto u = bits_of<Unsigned>(x), low = bits_of<Unsigned>(lower);
  const auto i = static_cast<Int>(u < low ? u : low), high = bits_of<Int>(upper);
  return bits_of<T>(i < high ? i : high);
}

template <class T>
DMREC_FN T keep_nan(T x, T result) {
  return x != x ? x : result;
}

template <class T>
DMREC_FN T at_most_finite(T x) {
  return x > Float<T>::largest ? Float<T>::largest : x;  // in this order a NaN passes
}

// weight * x, where a weight of 0 leaves nothing whatever x is
template <class T>
DMREC_FN T weighted(T weight, T x) {
  return weight == T(0) ? T(0) : weight * x;
}

// 2^n for -bias < n <= bias
template <class T>
DMREC_FN T power_of_two(typename Float<T>::Int n) {
  using F = Float<T>;
  using Unsigned = typename F::Unsigned;
  return bits_of<T>((static_cast<Unsigned>(n) + Unsigned{F::bias}) << F::mantissa_bits);
}

// e^x = 2^n (1 + r + tail) for x in the bounds, as if at the bound outside
template <class T>
struct ExpSplit {
  typename Float<T>::Int n;
  T r, tail;
};

template <class T>
DMREC_FN ExpSplit<T> exp_split(T x, T lower, T upper) {
  using F = Float<T>;
  x = clamp(x, lower, upper);
  const T rounded = x * F::log2_e + F::round_magic;
  const T n = rounded - F::round_magic;
  const T r = (x - n * F::ln2_high) - n * F::ln2_low;
  using Unsigned = typename F::Unsigned;
  const Unsigned offset = bits_of<Unsigned>(rounded) - bits_of<Unsigned>(F::round_magic);
  return {static_cast<typename F::Int>(offset), r, r * r * F::polynomial(r)};
}

// e^x, held inside the range of normal numbers: never 0, never infinite
template <class T>
DMREC_FN T bounded_exp(T x) {
  const auto e = exp_split(x, Float<T>::lowest, Float<T>::highest);
  return keep_nan(x, power_of_two<T>(e.n) * (T(1) + (e.r + e.tail)));
}

// (e^x - 1) / 2 from the parts of e^x: 2 (s (r + tail) + (s - 1/4)) with s = 2^(n-2), so that nothing is lost near 0
// and the half reaches as far as the result fits, even where e^x itself would not.
template <class T>
DMREC_FN ExpSplit<T> expm1_split(T x) {
  return exp_split(x, T(-40), Float<T>::beyond);  // below -40, e^x - 1 is -1 to the last bit
}

template <class T>
DMREC_FN T half_expm1(const ExpSplit<T>& e) {
  const T s = power_of_two<T>(e.n - 2);
  return T(2) * (s * (e.r + e.tail) + (s - T(0.25)));
}

template <class T>
DMREC_FN T half_expm1(T x) {
  return keep_nan(x, half_expm1(expm1_split(x)));
}

// (e^x - 1 - x) / 2 for x = 2 half_x, never negative. Taking half of x lets the caller form x as the difference of
// two halves, which cannot overflow.
template <class T>
DMREC_FN T half_exp_gap(T half_x) {
  const auto e = expm1_split(T(2) * half_x);
  const T subtracted = half_x > Float<T>::beyond ? Float<T>::beyond : half_x;  // no more, or infinity is missed
  return e.n == 0 ? T(0.5) * e.tail : half_expm1(e) - subtracted;              // NaN comes back with half_x
}

// sum_{k=first}^{terms} z^{k - first} / (2 k + 1)
template <int first, int terms, class T>
DMREC_FN T atanh_series(T z) {
  if constexpr (first == terms) {
    return T(1) / T(2 * first + 1);
  } else {
    return T(1) / T(2 * first + 1) + z * atanh_series<first + 1, terms>(z);
  }
}

// log x for normal x > 0; anything for others, NaN included
template <class T>
DMREC_FN T log_of(T x) {
  using F = Float<T>;
  using Unsigned = typename F::Unsigned;
  const Unsigned above = bits_of<Unsigned>(x) - bits_of<Unsigned>(F::sqrt_half);
  const auto n = static_cast<typename F::Int>(above) >> F::mantissa_bits;  // x = 2^n m with m in [sqrt(1/2), sqrt(2))
  const T m = bits_of<T>(bits_of<Unsigned>(x) - (static_cast<Unsigned>(n) << F::mantissa_bits));
  const T s = (m - T(1)) / (m + T(1)), z = s * s;
  const T log_m = T(2) * (s + s * z * atanh_series<1, F::atanh_terms>(z));
  const T whole = static_cast<T>(n);
  return whole * F::ln2_high + (log_m + whole * F::ln2_low);
}

// log(1 + t) for t > -1/2: what 1 + t lost comes back
template <class T>
DMREC_FN T log_of_one_plus(T t) {
  const T sum = T(1) + t;
  return log_of(sum) + (t - (sum - T(1))) / sum;
}

}  // namespace dmrec

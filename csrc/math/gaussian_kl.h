// KL(q || p) of diagonal Gaussians, one dimension at a time, in nats.
//   Eq. 14, Zhang et al., SIGIR 2025:  1/2 ( e^d - 1 - d + (mu_q - mu_p)^2 e^{-logvar_p} ),  d = logvar_q - logvar_p
//   Eq. 2 (p standard normal):         1/2 ( e^logvar_q - 1 - logvar_q + mu_q^2 )
// Finite wherever the result fits the type, +inf beyond, never NaN from finite input.
#pragma once

#include "math/row_functor.h"

namespace dmrec {

// (mu_q - mu_p) / 2 in units of a standard deviation e^{logvar / 2}, built from e^{-logvar / 4}: neither the difference
// nor the factor leaves the range unless the product does. Where the bounds of the factor bind, the product is 0 or
// infinite either way; and 0 * inf cannot arise.
template <class T>
struct Standardised {
  T quarter_root, half;

  DMREC_FN Standardised(T half_mean, T minus_quarter_logvar) {
    quarter_root = bounded_exp(minus_quarter_logvar);
    half = half_mean * quarter_root * quarter_root;
  }
  DMREC_FN T squared() const { return T(2) * half * half; }  // m^2 e^{-logvar} / 2
  DMREC_FN T slope() const { return slope(T(1)); }           // m e^{-logvar}
  DMREC_FN T slope(T factor) const { return T(2) * (factor * half * quarter_root * quarter_root); }
};

struct KlOfPair {
  static constexpr bool overflows_early = false;

  template <class T>
  DMREC_FN static T term(const Pair<T>& pair) {
    return Standardised<T>(pair.half_mean, T(-0.25) * pair.logvar_p).squared() + half_exp_gap(pair.half_d);
  }

  template <class T>
  DMREC_FN static PairGradient<T> gradient(const Pair<T>& pair) {
    const Standardised<T> mean(pair.half_mean, T(-0.25) * pair.logvar_p);
    const T by_q = half_expm1(T(2) * pair.half_d);
    return {mean.slope(), by_q, -mean.squared() - by_q, -mean.squared()};
  }
};

using GaussianKl = OfPairs<KlOfPair>;

// p standard normal; half of the log-variance, so that it may be formed without overflow
struct KlOfStandard {
  template <class T>
  DMREC_FN static T term(T mu, T half_logvar) {
    return T(0.5) * mu * mu + half_exp_gap(half_logvar);
  }
};

// inputs: mu_q, logvar_q
struct StandardGaussianKl : PlainSum {
  static constexpr int inputs = 2;

  template <class T>
  DMREC_FN static void terms(const T (&x)[inputs], T (&t)[sums]) {
    t[0] = KlOfStandard::term(x[0], T(0.5) * x[1]);
  }

  template <class T>
  DMREC_FN static void gradient(const T (&x)[inputs], const T (&c)[sums], T (&g)[inputs]) {
    g[0] = c[0] * x[0];
    g[1] = c[0] * half_expm1(T(2) * (T(0.5) * x[1]));  // as in terms, where the compiler shares it
  }
};

}  // namespace dmrec

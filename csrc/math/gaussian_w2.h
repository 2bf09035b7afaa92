// 2-Wasserstein distance of diagonal Gaussians: Eq. 9, Zhang et al., SIGIR 2025
//   W2^2 = sum (mu_q - mu_p)^2 + (sigma_q - sigma_p)^2,  sigma = e^{logvar / 2};  the distance is sqrt(W2^2 + eps)
#pragma once

#include <cmath>

#include "math/row_functor.h"

namespace dmrec {

// sigma_q - sigma_p, formed from the larger one, S (1 - e^{-|d|/2}) with d the difference of the log-variances: no
// digits are lost where they are close. `root` is S^{1/2}, kept in range: the product overflows where the difference
// does.
template <class T>
DMREC_FN T sigma_difference(T logvar_q, T logvar_p, T root) {
  const bool q_larger = logvar_q >= logvar_p;
  const T gap = T(0.5) * logvar_q - T(0.5) * logvar_p;
  const T distance = at_most_finite(root * (T(-2) * half_expm1(q_larger ? -gap : gap)) * root);
  return q_larger ? distance : -distance;
}

// sigma^{1/2}: never 0 and never infinite, so that 0 * inf cannot arise where two are multiplied in one after the other
template <class T>
DMREC_FN T root_of_sigma(T logvar) {
  return bounded_exp(T(0.25) * logvar);
}

// inputs: mu_q, logvar_q, mu_p, logvar_p
struct GaussianW2 {
  static constexpr int inputs = 4, sums = 1, factors = 3, states = 3;
  static constexpr bool needs_saved = true, overflows_early = true, in_units = true;

  bool squared;
  double eps;

  template <class T>
  DMREC_FN static void terms(const T (&x)[inputs], T (&t)[sums], T unit = T(1)) {
    const T mean = unit < T(1) ? unit * x[0] - unit * x[2] : unit * (x[0] - x[2]);
    const T sigma = unit * sigma_difference(x[1], x[3], root_of_sigma(x[1] >= x[3] ? x[1] : x[3]));
    t[0] = mean * mean + sigma * sigma;
  }

  // sigma^{1/2} of either, and the difference of the sigmas
  template <class T>
  DMREC_FN static void state(const T (&x)[inputs], T (&s)[states]) {
    s[0] = root_of_sigma(x[1]);
    s[1] = root_of_sigma(x[3]);
    s[2] = sigma_difference(x[1], x[3], x[1] >= x[3] ? s[0] : s[1]);
  }

  template <class T>
  DMREC_FN static void terms_of(const T (&x)[inputs], const T (&s)[states], T (&t)[sums]) {
    const T mean = x[0] - x[2];
    t[0] = mean * mean + s[2] * s[2];
  }

  template <class T>
  DMREC_FN T finish(const T (&sum)[sums], T unit = T(1)) const {
    if (squared) return sum[0] / unit / unit;
    const T under = static_cast<T>(eps);
    if (unit > T(1) && under > T(0)) return std::sqrt(sum[0] / unit / unit + under);  // eps in the unit would overflow
    return std::sqrt(sum[0] + under * unit * unit) / unit;
  }
  template <class T>
  DMREC_FN T saved(const T (&sum)[sums], T unit = T(1)) const {
    return finish(sum, unit);
  }

  // The gradient of the root is grad * (difference / value), whose quotient lies in [-1, 1] and is formed first: 1 /
  // value alone, or grad / value, leaves the range where the two are near. c: grad; 1 / (value * scale); the scale of
  // differences, which is not 1 where they are so small that the reciprocal of their root would overflow. Where the
  // root is 0 it has no gradient: 0 is the subgradient of least norm.
  template <class T>
  DMREC_FN void coefficients(T grad, T value, T (&c)[factors]) const {
    const T scale = value < T(0x1p-60) && !squared ? T(0x1p100) : T(1);
    const T reciprocal = value == T(0) ? T(0) : T(1) / (value * scale);
    c[0] = squared ? T(2) * grad : grad;
    c[1] = squared ? T(1) : reciprocal;
    c[2] = scale;
  }

  template <class T>
  DMREC_FN static void gradient(const T (&x)[inputs], const T (&c)[factors], T (&g)[inputs]) {
    T s[states];
    state(x, s);
    gradient_of(x, s, c, g);
  }

  template <class T>
  DMREC_FN static void gradient_of(const T (&x)[inputs], const T (&s)[states], const T (&c)[factors], T (&g)[inputs]) {
    const T pull = (T(0.5) * c[0]) * ((s[2] * c[2]) * c[1]);
    const T near = (x[0] - x[2]) * (T(0.5) * c[2]), far = T(0.5) * x[0] - T(0.5) * x[2];  // half the difference
    g[0] = T(2) * (c[0] * ((c[2] > T(1) ? near : far) * c[1]));
    g[1] = pull * s[0] * s[0];
    g[2] = -g[0];
    g[3] = -pull * s[1] * s[1];
  }
};

}  // namespace dmrec

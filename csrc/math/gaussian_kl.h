// KL(q || p) of diagonal Gaussians, one dimension at a time, in nats.
//   Eq. 14, Zhang et al., SIGIR 2025:  1/2 ( e^d - 1 - d + (mu_q - mu_p)^2 e^{-logvar_p} ),  d = logvar_q - logvar_p
//   Eq. 2 (p standard normal):         1/2 ( e^logvar_q - 1 - logvar_q + mu_q^2 )
// Finite wherever the result fits the type, +inf beyond, never NaN from finite input.
#pragma once

#include "math/row_functor.h"

namespace dmrec {

// inputs: mu_q, logvar_q
struct StandardGaussianKl : Sum {
  static constexpr int inputs = 2;

  template <class T>
  DMREC_FN static T term(const T (&x)[inputs]) {
    return T(0.5) * x[0] * x[0] + half_exp_gap(T(0.5) * x[1]);
  }

  template <class T>
  DMREC_FN static void gradient(const T (&x)[inputs], T scale, T (&g)[inputs]) {
    g[0] = scale * x[0];
    g[1] = scale * half_expm1(x[1]);
  }
};

// inputs: mu_q, logvar_q, mu_p, logvar_p
struct GaussianKl : Sum {
  static constexpr int inputs = 4;

  template <class T>
  DMREC_FN static T term(const T (&x)[inputs]) {
    const Mahalanobis<T> m(x);
    return T(2) * m.half * m.half + half_exp_gap(T(0.5) * x[1] - T(0.5) * x[3]);
  }

  template <class T>
  DMREC_FN static void gradient(const T (&x)[inputs], T scale, T (&g)[inputs]) {
    const Mahalanobis<T> m(x);
    const T variance = half_expm1(T(2) * (T(0.5) * x[1] - T(0.5) * x[3]));
    g[0] = scale * (T(2) * (m.half * m.quarter_root * m.quarter_root));
    g[1] = scale * variance;
    g[2] = -g[0];
    g[3] = scale * (-variance - T(2) * m.half * m.half);
  }

 private:
  // half = (mu_q - mu_p) e^{-logvar_p / 2} / 2, built from e^{-logvar_p / 4}: neither the difference nor the factor
  // leaves the range unless the product does. Where the bounds of the factor bind, the product is 0 or infinite either
  // way; and 0 * inf cannot arise.
  template <class T>
  struct Mahalanobis {
    T quarter_root, half;
    DMREC_FN explicit Mahalanobis(const T (&x)[inputs]) {
      quarter_root = bounded_exp(T(-0.25) * x[3]);
      half = (T(0.5) * x[0] - T(0.5) * x[2]) * quarter_root * quarter_root;
    }
  };
};

}  // namespace dmrec

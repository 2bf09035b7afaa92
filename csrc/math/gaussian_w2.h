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
  static constexpr int inputs = 4, sums = 1;
  static constexpr bool needs_saved = true, overflows_early = true;

  bool squared;
  double eps;

  template <class T>
  DMREC_FN static void terms(const T (&x)[inputs], T (&t)[sums]) {
    const T mean = x[0] - x[2];
    const T sigma = sigma_difference(x[1], x[3], root_of_sigma(x[1] >= x[3] ? x[1] : x[3]));
    t[0] = mean * mean + sigma * sigma;
  }

  template <class T>
  DMREC_FN T finish(const T (&sum)[sums]) const {
    return squared ? sum[0] : std::sqrt(sum[0] + static_cast<T>(eps));
  }
  template <class T>
  DMREC_FN T saved(const T (&sum)[sums]) const {
    return finish(sum);
  }

  // of half the gradient of W2^2; where the root is 0 it has no gradient: 0 is the subgradient of least norm
  template <class T>
  DMREC_FN void coefficients(T grad, T value, T (&c)[sums]) const {
    const T of_root = value == T(0) ? T(0) : grad / value;
    c[0] = squared ? T(2) * grad : of_root;
  }

  template <class T>
  DMREC_FN static void gradient(const T (&x)[inputs], const T (&c)[sums], T (&g)[inputs]) {
    const T root_q = root_of_sigma(x[1]), root_p = root_of_sigma(x[3]);
    const T pull = (T(0.5) * c[0]) * sigma_difference(x[1], x[3], x[1] >= x[3] ? root_q : root_p);
    g[0] = T(2) * (c[0] * (T(0.5) * x[0] - T(0.5) * x[2]));
    g[1] = pull * root_q * root_q;
    g[2] = -g[0];
    g[3] = -pull * root_p * root_p;
  }
};

}  // namespace dmrec

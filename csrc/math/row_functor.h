// What a functor over rows offers to the drivers. For a row with elements x_1 .. x_inputs in each column:
//   terms(x, t)                   the column's share of each of the row's sums
//   finish(sum)                   the row's value
//   saved(sum)                    a number that the backward needs of the row
//   coefficients(grad, saved, c)  the row's `factors` numbers that its gradients are scaled with
//   gradient(x, c, g)             the gradients of an element, multiplied in an order that does not overflow
//   overflows_early               whether a row's sum may leave the range of float although its value does not: such a
//                                 row is summed again in double
//   needs_saved                   whether the gradient depends on the row's value through `saved`. It then also offers
//                                 what value and gradient share, so that one visit of a row forms it once: `states`
//                                 numbers, state(x, s), terms_of(x, s, t) and gradient_of(x, s, c, g)
//   in_units                      whether terms, finish and saved take a unit, a power of two: the sum is formed from
//                                 elements multiplied by it and the value divided by it, so that squares stay in range
#pragma once

#include "math/elementary.h"

namespace dmrec {

// A value that is the plain sum of its terms.
struct PlainSum {
  static constexpr int sums = 1, factors = 1;
  static constexpr bool needs_saved = false, overflows_early = false, in_units = false;

  template <class T>
  DMREC_FN static T finish(const T (&sum)[sums]) {
    return sum[0];
  }
  template <class T>
  DMREC_FN static T saved(const T (&)[sums]) {
    return T(0);
  }
  template <class T>
  DMREC_FN static void coefficients(T grad, T, T (&c)[factors]) {
    c[0] = grad;
  }
};

// Two Gaussians in one dimension, as divergences see them: halves, so that differences of extremes do not overflow.
template <class T>
struct Pair {
  T half_mean;  // (mu_q - mu_p) / 2
  T half_d;     // (logvar_q - logvar_p) / 2
  T logvar_p;
};

// Derivatives of a divergence by mu_q - mu_p, by logvar_q, by logvar_p, and by both log-variances at once (their sum,
// formed without cancellation).
template <class T>
struct PairGradient {
  T mean, logvar_q, logvar_p, both;
};

// A divergence of pairs over the inputs mu_q, logvar_q, mu_p, logvar_p.
template <class Divergence>
struct OfPairs : PlainSum {
  static constexpr int inputs = 4;
  static constexpr bool overflows_early = Divergence::overflows_early;
  Divergence divergence;

  template <class T>
  DMREC_FN void terms(const T (&x)[inputs], T (&t)[sums]) const {
    t[0] = divergence.term(pair(x));
  }

  template <class T>
  DMREC_FN void gradient(const T (&x)[inputs], const T (&c)[factors], T (&g)[inputs]) const {
    const PairGradient<T> by = divergence.gradient(pair(x));
    g[0] = c[0] * by.mean;
    g[1] = c[0] * by.logvar_q;
    g[2] = -g[0];
    g[3] = c[0] * by.logvar_p;
  }

 private:
  template <class T>
  DMREC_FN static Pair<T> pair(const T (&x)[inputs]) {
    return {T(0.5) * x[0] - T(0.5) * x[2], T(0.5) * x[1] - T(0.5) * x[3], x[3]};
  }
};

}  // namespace dmrec

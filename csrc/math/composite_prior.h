// Divergence of two Gaussians q and p to one between them, KL(p || c) + KL(q || c), one dimension at a time, in nats:
// Eq. 11 and 12, Zhang et al., SIGIR 2025, with mean and log-variance of c interpolated linearly (weight alpha for q).
// With m = mu_q - mu_p, d = logvar_q - logvar_p and logvar_c = logvar_p + alpha d, this is
//   1/2 (e^{-alpha d} - 1 + alpha d) + 1/2 (e^{(1-alpha) d} - 1 - (1-alpha) d)
//   + 1/2 (alpha^2 + (1-alpha)^2) m^2 e^{-logvar_c}
#pragma once

#include "math/gaussian_kl.h"

namespace dmrec {

struct CompositeOfPair {
  static constexpr bool overflows_early = true;  // terms are weighted
  double alpha = 0.5;

  template <class T>
  DMREC_FN T term(const Pair<T>& pair) const {
    const T a = static_cast<T>(alpha);
    const T gaps = half_exp_gap(-a * pair.half_d) + half_exp_gap((T(1) - a) * pair.half_d);
    return weight(a) * mean(pair, a).squared() + gaps;
  }

  template <class T>
  DMREC_FN PairGradient<T> gradient(const Pair<T>& pair) const {
    const T a = static_cast<T>(alpha), rest = T(1) - a;
    const Standardised<T> m = mean(pair, a);
    const T by_logvar_c = -weight(a) * m.squared();
    const T gaps = rest * half_expm1(T(2) * (rest * pair.half_d)) - a * half_expm1(T(-2) * (a * pair.half_d));
    return {weight(a) * m.slope(), a * by_logvar_c + gaps, by_logvar_c};
  }

 private:
  template <class T>
  DMREC_FN static T weight(T a) {
    return a * a + (T(1) - a) * (T(1) - a);
  }
  template <class T>
  DMREC_FN static Standardised<T> mean(const Pair<T>& pair, T a) {
    return {pair.half_mean, T(-0.25) * pair.logvar_p - T(0.5) * (a * pair.half_d)};
  }
};

using CompositePrior = OfPairs<CompositeOfPair>;

}  // namespace dmrec

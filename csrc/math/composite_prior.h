// Divergence of two Gaussians q and p to one between them, KL(p || c) + KL(q || c), one dimension at a time, in nats:
// Eq. 11 and 12, Zhang et al., SIGIR 2025. The mean of c is interpolated linearly, weight a (alpha) for q, 1 - a for p.
// With m = mu_q - mu_p, logvar_c = L, gap(x) = (e^x - 1 - x) / 2 this is
//   gap(logvar_p - L) + gap(logvar_q - L) + 1/2 (a^2 + (1-a)^2) m^2 e^{-L}
// where the variance of c is interpolated in its logarithm, linearly, or is that of the mixture of q and p (moment).
#pragma once

#include "math/gaussian_kl.h"

namespace dmrec {

enum class Interpolation { log_linear, linear, moment };

template <class T>
DMREC_FN T weight_of_mean(T a) {
  return a * a + (T(1) - a) * (T(1) - a);
}

// L = logvar_p + a d, d = logvar_q - logvar_p
struct CompositeOfPair {
  static constexpr bool overflows_early = true;  // terms are weighted
  double alpha = 0.5;

  template <class T>
  DMREC_FN T term(const Pair<T>& pair) const {
    const T a = static_cast<T>(alpha), rest = static_cast<T>(1 - alpha);
    const T gaps = half_exp_gap(-(a * pair.half_d)) + half_exp_gap(rest * pair.half_d);
    return weight_of_mean(a) * mean(pair, a).squared() + gaps;
  }

  template <class T>
  DMREC_FN PairGradient<T> gradient(const Pair<T>& pair) const {
    const T a = static_cast<T>(alpha), rest = static_cast<T>(1 - alpha);
    const Standardised<T> m = mean(pair, a);
    const T by_logvar_c = -weight_of_mean(a) * m.squared();
    const T gaps = rest * half_expm1(T(2) * (rest * pair.half_d)) - a * half_expm1(T(2) * -(a * pair.half_d));
    return {weight_of_mean(a) * m.slope(), a * by_logvar_c + gaps, rest * by_logvar_c - gaps, by_logvar_c};
  }

 private:
  template <class T>
  DMREC_FN static Standardised<T> mean(const Pair<T>& pair, T a) {
    return {pair.half_mean, T(-0.25) * pair.logvar_p - T(0.5) * (a * pair.half_d)};
  }
};

// L = log(a e^{logvar_q} + (1-a) e^{logvar_p} [+ a (1-a) m^2]) for 0 < a < 1. Formed as its distance above the larger
// log-variance, <= 0 but for the share of the means, so that nothing overflows and nothing is lost where q is near p.
template <bool moment>
struct MixtureOfPair {
  static constexpr bool overflows_early = true;
  double alpha = 0.5;

  template <class T>
  DMREC_FN T term(const Pair<T>& pair) const {
    const Between<T> c = between(pair);
    return half_exp_gap(c.half_p) + half_exp_gap(c.half_q) + mean_term(pair, c);
  }

  // With h = (e^x - 1) / 2 of either x = logvar - L: L weighs -(h_p + h_q) - mean term, and follows logvar_q by its
  // share in the variance of c, a e^{x_q}, logvar_p by (1-a) e^{x_p}, the mean by its own. The shares sum to 1: written
  // so that nothing cancels where one of them is all.
  template <class T>
  DMREC_FN PairGradient<T> gradient(const Pair<T>& pair) const {
    const T a = static_cast<T>(alpha), rest = static_cast<T>(1 - alpha);
    const Between<T> c = between(pair);
    const T h_p = half_expm1(T(2) * c.half_p), h_q = half_expm1(T(2) * c.half_q), mean = mean_term(pair, c);
    const T share_q = a * bounded_exp(T(2) * c.half_q), share_p = rest * bounded_exp(T(2) * c.half_p);
    const T of_variances = weight_of_mean(a) * (moment ? share_p + share_q : T(1));
    const T factor = of_variances - (moment ? T(2) * a * rest * (h_p + h_q) : T(0));
    return {standardised(pair, c).slope(factor), h_q * (share_p + c.share) - share_q * (h_p + mean),
            h_p * (share_q + c.share) - share_p * (h_q + mean), c.share * (h_p + h_q) - (share_p + share_q) * mean};
  }

 private:
  template <class T>
  struct Between {
    T half_p, half_q;  // (logvar_p - L) / 2, (logvar_q - L) / 2
    T share;           // of the means in the variance of c
  };

  template <class T>
  DMREC_FN Between<T> between(const Pair<T>& pair) const {
    const T a = static_cast<T>(alpha), rest = static_cast<T>(1 - alpha);
    const bool q_larger = pair.half_d > T(0);
    const T distance = q_larger ? -pair.half_d : pair.half_d;  // half, <= 0
    const T of_smaller = q_larger ? rest : a;
    const T less = T(2) * half_expm1(T(2) * distance);
    const T t = of_smaller * less, direct = of_smaller * bounded_exp(T(2) * distance) + (q_larger ? a : rest);
    T above =
        t <= T(-0.5) ? log_of(direct) : log_of_one_plus(t);  // L - the larger log-variance; in this order a NaN stays
    Between<T> c{T(0), T(0), T(0)};
    if (moment) {
      // log of the means' share over that of the variances, z: both as logarithms, for the ratio leaves every range
      const T larger = q_larger ? pair.logvar_p + T(2) * pair.half_d : pair.logvar_p;
      const T means = pair.half_mean < T(0) ? -pair.half_mean : pair.half_mean;
      const bool small = means < Float<T>::smallest;  // scaled, for subnormal ones have no logarithm here
      const T log_of_means = log_of(small ? means * T(0x1p100) : means) - (small ? T(69.314718055994530942) : T(0));
      const T log_of_both = log_of(T(4) * a * rest) + T(2) * log_of_means;
      const T z = means == T(0) ? Float<T>::lowest : keep_nan(means, log_of_both - larger - above);
      const T e = bounded_exp(z > T(0) ? -z : z), one_over = T(1) / (T(1) + e);
      above += (z > T(0) ? z : T(0)) + log_of_one_plus(e);
      c.share = z > T(0) ? one_over : e * one_over;
    }
    const T half_of_larger = T(-0.5) * above, half_of_smaller = distance - T(0.5) * above;
    c.half_p = q_larger ? half_of_smaller : half_of_larger;
    c.half_q = q_larger ? half_of_larger : half_of_smaller;
    return c;
  }

  template <class T>
  DMREC_FN static Standardised<T> standardised(const Pair<T>& pair, const Between<T>& c) {
    return {pair.half_mean, T(0.5) * c.half_p - T(0.25) * pair.logvar_p};  // -L / 4
  }

  template <class T>
  DMREC_FN T mean_term(const Pair<T>& pair, const Between<T>& c) const {
    return weight_of_mean(static_cast<T>(alpha)) * standardised(pair, c).squared();
  }
};

// body(divergence) with the divergence of these options; at its ends every interpolation is the same
template <class Body>
auto with_composite(Interpolation interpolation, double alpha, const Body& body) {
  const bool end = alpha < 1e-30 || alpha == 1.0;
  if (interpolation == Interpolation::log_linear || end) return body(CompositeOfPair{alpha});
  if (interpolation == Interpolation::linear) return body(MixtureOfPair<false>{alpha});
  return body(MixtureOfPair<true>{alpha});
}

}  // namespace dmrec

// Whole matching losses, one dimension at a time, in nats: Eq. 10, 13 and 15, Zhang et al., SIGIR 2025.
// Inputs: mu_c, logvar_c (collaborative posterior), mu_l, logvar_l (language posterior p). The fused posterior q has
// their sums as mean and log-variance (add), or is the collaborative one. Under addition q's differences from p are the
// collaborative mean and log-variance themselves: they are taken from there, not formed.
#pragma once

#include "math/composite_prior.h"
#include "math/gaussian_w2.h"

namespace dmrec {

enum class Strategy { godm, cpdm, mddm, kl };

struct MatchingOptions {
  Strategy strategy;
  double beta, alpha;
  Interpolation interpolation;
  bool squared;
  double eps;
  bool add;  // fusion of the posteriors: added, or the collaborative one alone
};

template <class T>
struct Fused {
  T mu, half_logvar;
};

template <bool add, class T>
DMREC_FN Fused<T> fuse(const T (&x)[4]) {
  if (add) return {x[0] + x[2], T(0.5) * x[1] + T(0.5) * x[3]};
  return {x[0], T(0.5) * x[1]};
}

// prior * KL(q || N(0, I)) + match * divergence(q, p)
template <class Divergence, bool add>
struct MatchingByDivergence : PlainSum {
  static constexpr int inputs = 4;
  static constexpr bool overflows_early = true;  // terms are weighted
  double prior, match;
  Divergence divergence;

  template <class T>
  DMREC_FN void terms(const T (&x)[inputs], T (&t)[sums]) const {
    const Fused<T> q = fuse<add>(x);
    t[0] = weighted(static_cast<T>(prior), KlOfStandard::term(q.mu, q.half_logvar)) +
           weighted(static_cast<T>(match), divergence.term(pair(x)));
  }

  template <class T>
  DMREC_FN void gradient(const T (&x)[inputs], const T (&c)[factors], T (&g)[inputs]) const {
    const Fused<T> q = fuse<add>(x);
    const T scale_prior = c[0] * static_cast<T>(prior), scale_match = c[0] * static_cast<T>(match);
    const T by_mu = scale_prior * q.mu;
    const T by_logvar = weighted(scale_prior, half_expm1(T(2) * q.half_logvar));
    const PairGradient<T> by = divergence.gradient(pair(x));
    const T mean = weighted(scale_match, by.mean);
    g[0] = by_mu + mean;
    g[1] = by_logvar + weighted(scale_match, by.logvar_q);
    g[2] = add ? by_mu : -mean;
    g[3] = add ? by_logvar + weighted(scale_match, by.both) : weighted(scale_match, by.logvar_p);
  }

 private:
  template <class T>
  DMREC_FN static Pair<T> pair(const T (&x)[inputs]) {
    if (add) return {T(0.5) * x[0], T(0.5) * x[1], x[3]};
    return {T(0.5) * x[0] - T(0.5) * x[2], T(0.5) * x[1] - T(0.5) * x[3], x[3]};
  }
};

// KL(q || N(0, I)) + beta * W2(collaborative, p): two sums, as the distance is a root
template <bool add>
struct MatchingByW2 {
  static constexpr int inputs = 4, sums = 2, factors = 1 + GaussianW2::factors, states = 2 + GaussianW2::states;
  static constexpr bool needs_saved = true, overflows_early = true, in_units = true;
  double beta;
  GaussianW2 distance;

  template <class T>
  DMREC_FN void terms(const T (&x)[inputs], T (&t)[sums], T unit = T(1)) const {
    const Fused<T> q = fuse<add>(x);
    T squared[1];
    distance.terms(x, squared, unit);
    t[0] = KlOfStandard::term(q.mu, q.half_logvar);
    t[1] = squared[0];
  }

  // that of the distance, the divergence, and its derivative by the log-variance
  template <class T>
  DMREC_FN void state(const T (&x)[inputs], T (&s)[states]) const {
    T of_distance[GaussianW2::states];
    distance.state(x, of_distance);
    s[0] = of_distance[0];
    s[1] = of_distance[1];
    s[2] = of_distance[2];
    const Fused<T> q = fuse<add>(x);
    s[3] = KlOfStandard::term(q.mu, q.half_logvar);
    s[4] = half_expm1(T(2) * q.half_logvar);
  }

  template <class T>
  DMREC_FN void terms_of(const T (&x)[inputs], const T (&s)[states], T (&t)[sums]) const {
    const T of_distance[GaussianW2::states] = {s[0], s[1], s[2]};
    T squared[1];
    distance.terms_of(x, of_distance, squared);
    t[0] = s[3];
    t[1] = squared[0];
  }

  template <class T>
  DMREC_FN T saved(const T (&sum)[sums], T unit = T(1)) const {
    const T squared[1] = {sum[1]};
    return distance.finish(squared, unit);
  }
  template <class T>
  DMREC_FN T finish(const T (&sum)[sums], T unit = T(1)) const {
    return sum[0] + weighted(static_cast<T>(beta), saved(sum, unit));
  }
  template <class T>
  DMREC_FN void coefficients(T grad, T saved, T (&c)[factors]) const {
    T of_distance[GaussianW2::factors];
    distance.coefficients(grad * static_cast<T>(beta), saved, of_distance);
    c[0] = grad;
    c[1] = of_distance[0];
    c[2] = of_distance[1];
    c[3] = of_distance[2];
  }

  template <class T>
  DMREC_FN void gradient(const T (&x)[inputs], const T (&c)[factors], T (&g)[inputs]) const {
    T s[states];
    state(x, s);
    gradient_of(x, s, c, g);
  }

  template <class T>
  DMREC_FN void gradient_of(const T (&x)[inputs], const T (&s)[states], const T (&c)[factors], T (&g)[inputs]) const {
    const T by_mu = c[0] * fuse<add>(x).mu;
    const T by_logvar = c[0] * s[4];
    const T of_distance[GaussianW2::states] = {s[0], s[1], s[2]}, scales[GaussianW2::factors] = {c[1], c[2], c[3]};
    distance.gradient_of(x, of_distance, scales, g);
    g[0] += by_mu;
    g[1] += by_logvar;
    if (add) {
      g[2] += by_mu;
      g[3] += by_logvar;
    }
  }
};

// body(functor) with the functor of these options
template <bool add, class Body>
auto with_matching(const MatchingOptions& o, const Body& body) {
  switch (o.strategy) {
    case Strategy::godm: return body(MatchingByW2<add>{o.beta, GaussianW2{o.squared, o.eps}});
    case Strategy::cpdm:
      return with_composite(o.interpolation, o.alpha, [&]<class D>(const D& divergence) {
        return body(MatchingByDivergence<D, add>{{}, 1.0, o.beta, divergence});
      });
    case Strategy::mddm: return body(MatchingByDivergence<KlOfPair, add>{{}, o.beta, 1.0 - o.beta, {}});
    default: return body(MatchingByDivergence<KlOfPair, add>{{}, 1.0, o.beta, {}});
  }
}

template <class Body>
auto with_matching(const MatchingOptions& o, const Body& body) {
  return o.add ? with_matching<true>(o, body) : with_matching<false>(o, body);
}

}  // namespace dmrec

// Errors of csrc/math/elementary.h in units of the last place, against long double: a program without Python or torch,
// for compilers and processors that the rest of the tests do not run on. Prints the worst of each function; the exit
// status is 1 where one is above its limit.
#include "math/elementary.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

namespace {

template <class T>
std::vector<T> points() {
  const T span = sizeof(T) == 4 ? T(87) : T(708);
  std::mt19937_64 random(0);
  std::uniform_real_distribution<double> wide(-span, span), near(-1, 1), exponent(std::log(1e-9), 0);
  std::vector<T> all;
  for (int i = 0; i < 4000; ++i) {
    all.push_back(static_cast<T>(wide(random)));
    all.push_back(static_cast<T>(near(random)));
    all.push_back(static_cast<T>(std::exp(exponent(random))));
    all.push_back(-all.back());
  }
  return all;
}

template <class T>
long double ulp(long double exact) {
  const long double size = std::fabs(exact);
  const T rounded = static_cast<T>(size < std::numeric_limits<T>::min() ? std::numeric_limits<T>::min() : size);
  return static_cast<long double>(std::nextafter(rounded, std::numeric_limits<T>::infinity())) - rounded;
}

template <class T, class Mine, class Exact>
bool check(const char* name, double limit, const std::vector<T>& x, const Mine& mine, const Exact& exact) {
  std::vector<T> results(x.size());
#pragma omp simd
  for (size_t i = 0; i < x.size(); ++i) results[i] = mine(x[i]);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const long double right = exact(static_cast<long double>(x[i]));
    worst = std::fmax(worst, static_cast<double>(std::fabs(results[i] - right) / ulp<T>(right)));
  }
  std::printf("%s %zu bytes: %.2f ulp\n", name, sizeof(T), worst);
  return worst < limit;  // false for NaN
}

template <class T>
bool all() {
  using namespace dmrec;
  const std::vector<T> x = points<T>();
  std::vector<T> halves, positive, above;
  for (const T each : x) {
    halves.push_back(each / 2);
    positive.push_back(std::fabs(each) + std::numeric_limits<T>::min());
    if (each > T(-0.5)) above.push_back(each);
  }
  bool right = check("bounded_exp", 1.0, x, [](T v) { return bounded_exp(v); }, [](auto v) { return std::exp(v); });
  right &= check("half_expm1", 2.5, x, [](T v) { return half_expm1(v); }, [](auto v) { return std::expm1(v) / 2; });
  // long double itself subtracts where the argument is small: the series there
  right &= check(
      "half_exp_gap", 12.0, halves, [](T v) { return half_exp_gap(v); },
      [](long double v) {
        const long double d = 2 * v;
        if (std::fabs(d) > 0.1L) return (std::expm1(d) - d) / 2;
        long double term = d * d / 2, sum = term;
        for (int n = 3; n < 20; ++n) sum += term *= d / n;
        return sum / 2;
      });
  right &= check("log_of", 2.0, positive, [](T v) { return log_of(v); }, [](auto v) { return std::log(v); });
  right &= check(
      "log_of_one_plus", 2.5, above, [](T v) { return log_of_one_plus(v); }, [](auto v) { return std::log1p(v); });
  return right;
}

}  // namespace

int main() {
  const bool in_float = all<float>(), in_double = all<double>();
  return in_float && in_double ? 0 : 1;
}

// The log of a sum of exponentials, term by term or part by part: a monoid of maximum and sum.
//   log sum e^x = max + log(sum),  sum = sum e^{x - max}
#pragma once

#include "math/elementary.h"

namespace dmrec {

template <class T>
struct MaxAndSum {
  T max, sum;

  // of nothing
  DMREC_FN static MaxAndSum empty() { return {-Float<T>::largest, T(0)}; }

  // of both; parts whose terms are all -inf have a max of the lowest finite number and weigh nothing
  DMREC_FN MaxAndSum with(const MaxAndSum& other) const {
    const T larger = max > other.max || max != max ? max : other.max;
    return {larger, sum * bounded_exp(max - larger) + other.sum * bounded_exp(other.max - larger)};
  }

  // log sum e^x - max: kept apart from the max, next to which its digits would be lost
  DMREC_FN T log_sum_above_max() const { return keep_nan(sum, log_of(sum)); }
};

}  // namespace dmrec

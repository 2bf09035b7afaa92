// How far the product of a query and an item, as a matrix product in few bits gives it, may lie from their score:
//   |fl(q.w + b) - (q.w + b)| <= (c + (H + 2) eps) |q||w| + 8 eps (|q||w| + |b|) + what may vanish below the range
// for a sum of H products in any order. c is the rounding of both factors to the type that is multiplied in. The norms
// are the largest ones of all items, so one bound holds for a query and any item.
//
// What the bound does not cover (norms or biases beyond largest_norm, NaN and infinity among them) is `unbounded`: it
// takes no part in the filter and is scored exactly.
#pragma once

#include <cmath>

#include "math/elementary.h"

namespace dmrec {

enum class Factors { as_they_are, in_tf32, in_bf16 };

template <class T>
DMREC_FN T infinity() {
  return static_cast<T>(bits_of<float>(uint32_t{0x7f800000}));
}

// T: what products are summed in. Squares of norms within this stay in the range of T.
template <class T>
DMREC_FN double largest_norm() {
  return sizeof(T) == sizeof(double) ? 1e150 : 1e18;
}

// Of a vector from the root of its sum of squares in double: infinite where squares underflowed, or are NaN.
DMREC_FN double bounded_norm(double root, bool all_zero) {
  return root > 1e-150 || all_zero ? root : infinity<double>();
}

// Infinite where the query's norm is not covered.
template <class T>
DMREC_FN double product_bound(double width, double norm, double items_norm, double items_bias, Factors factors) {
  const double product = norm * items_norm;
  const double eps = sizeof(T) == sizeof(double) ? 0x1p-52 : 0x1p-23;
  const double underflow = 4 * static_cast<double>(Float<T>::smallest) * (width + sqrt(width) * (norm + items_norm));
  const double rounding = factors == Factors::in_bf16   ? 3.05 / 256 * product
                          : factors == Factors::in_tf32 ? 2.05 / 1024 * product
                                                        : 0;
  const double bound = 1.01 * (rounding + (width + 2) * eps * product + 8 * eps * (product + items_bias)) + underflow;
  return norm <= largest_norm<T>() ? bound : infinity<double>();
}

}  // namespace dmrec

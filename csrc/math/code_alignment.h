// One element of code_alignment: a code on a level, in a row. With y, p the probabilities of target and prediction and
// n that of the negative, the mean of p over the batch or over all other rows:
//   gap = y (log p - log n)                              forward
//       + n (log n - log y) - p (log p - log y)          reverse
// Its sum over codes and levels is delta; the loss of a row is slope softplus(-delta / slope).
//
// Where a row is left out of its own negative, sums over the others come from the sum of all, relative to its largest
// term: what a row leaves is at least as much as it takes away. But for the row that has the largest term itself, whose
// others are summed apart, relative to the largest of those.
#pragma once

#include "math/elementary.h"

namespace dmrec {

template <bool is_forward, bool is_reverse, bool is_left_out>
struct AlignmentKind {
  static constexpr bool forward = is_forward, reverse = is_reverse, leave_one_out = is_left_out;
};

// What the batch says of a code: the largest log p, its row, the sum of p / e^largest, and the log of a sum of p: over
// all rows, or where rows are left out over all but that one.
template <class T>
struct AlignmentColumn {
  T largest, row, sum, log_sum;
};

// log n, of a row b; log_rows: the log of how many rows are averaged.
template <class Kind, class T>
DMREC_FN T log_negative(const AlignmentColumn<T>& column, T log_p, T b, T log_rows) {
  if constexpr (Kind::leave_one_out) {
    const T others = column.sum - bounded_exp(log_p - column.largest);
    const T log_others = column.largest + log_of(others > T(0.5) ? others : T(0.5));
    return keep_nan(others, b == column.row ? column.log_sum : log_others) - log_rows;
  } else {
    return column.log_sum - log_rows;
  }
}

template <class Kind, class T>
DMREC_FN T alignment_gap(T log_y, T log_p, T log_n) {
  T gap = T(0);
  if constexpr (Kind::forward) gap += bounded_exp(log_y) * (log_p - log_n);
  if constexpr (Kind::reverse) {
    gap += bounded_exp(log_n) * (log_n - log_y) - bounded_exp(log_p) * (log_p - log_y);
  }
  return gap;
}

// d gap / d log n
template <class Kind, class T>
DMREC_FN T of_log_negative(T log_y, T log_n) {
  T result = T(0);
  if constexpr (Kind::forward) result -= bounded_exp(log_y);
  if constexpr (Kind::reverse) result += bounded_exp(log_n) * (log_n - log_y + T(1));
  return result;
}

// What of_log_negative comes to for a code, each times the gradient of its row's delta: the sum over rows, of each
// divided by its others where it is left out; and that of the row with the largest p.
template <class T>
struct AlignmentColumnGradient {
  T sum, of_row;
};

// What a row adds to the first.
template <class Kind, class T>
DMREC_FN T column_share(const AlignmentColumn<T>& column, T log_p, T of_log_n) {
  if constexpr (!Kind::leave_one_out) return of_log_n;
  const T others = column.sum - bounded_exp(log_p - column.largest);
  return of_log_n / (others > T(0.5) ? others : T(0.5));
}

// The gradient of log p through all negatives that it is part of; own: column_share of this row.
template <class Kind, class T>
DMREC_FN T through_negatives(const AlignmentColumn<T>& column, const AlignmentColumnGradient<T>& gradient, T log_p, T b,
                             T own, T log_n, T log_rows) {
  if constexpr (Kind::leave_one_out) {
    const bool has_largest = b == column.row;
    const T share = bounded_exp(log_p - column.largest);
    const T of_largest = gradient.of_row * bounded_exp(log_p - column.log_sum);
    return has_largest ? gradient.sum : share * (gradient.sum - own) + of_largest;
  } else {
    return gradient.sum * bounded_exp(log_p - log_n - log_rows);
  }
}

// slope softplus(-delta / slope), and its derivative
template <class T>
DMREC_FN T alignment_loss(T delta, T slope) {
  const T x = -delta / slope, magnitude = x > T(0) ? x : -x;
  const T above = log_of_one_plus(bounded_exp(-magnitude));
  return keep_nan(delta, slope * ((x > T(0) ? x : T(0)) + above));
}

template <class T>
DMREC_FN T of_alignment_loss(T delta, T slope) {
  const T x = delta / slope, e = bounded_exp(x > T(0) ? -x : x);
  return keep_nan(delta, -(x > T(0) ? e : T(1)) / (T(1) + e));
}

}  // namespace dmrec

// What a functor over rows offers to the drivers. For a row with elements x_1 .. x_inputs in each column:
//   term(x)                      the column's share of the sum
//   finish(sum)                  the row's value
//   coefficient(grad, value)     what the gradients of all terms of the row are scaled with; `value` is finish's result
//                                and is only there if needs_value
//   gradient(x, scale, g)        g_i = scale * d term / d x_i, multiplied in an order that does not overflow early
//   squares                      whether a row's sum may leave the range of float although its value does not: such a
//                                row is summed again in double
#pragma once

#include "math/elementary.h"

namespace dmrec {

// A value that is the plain sum of its terms.
struct Sum {
  static constexpr bool needs_value = false, squares = false;

  template <class T>
  DMREC_FN static T finish(T sum) {
    return sum;
  }
  template <class T>
  DMREC_FN static T coefficient(T grad, T) {
    return grad;
  }
};

}  // namespace dmrec

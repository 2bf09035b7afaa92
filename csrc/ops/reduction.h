// Checks of _multiply_unless_one_.
#pragma once

#include "ops/row_inputs.h"

namespace dmrec {

inline void check_multiplied(const std::vector<Tensor>& values, const Tensor& factor) {
  STD_TORCH_CHECK(factor.numel() == 1, "_multiply_unless_one_: factor must be one number");
  for (const Tensor& value : values) {
    STD_TORCH_CHECK(
        value.is_contiguous() && value.scalar_type() == factor.scalar_type() && value.device() == factor.device(),
        "_multiply_unless_one_: values must be contiguous, of the dtype and on the device of factor");
  }
  if (!values.empty()) check_rows("_multiply_unless_one_", values);
}

}  // namespace dmrec

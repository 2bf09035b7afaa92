// Checks of csr_aggregate, once for all devices: a bias that fits.
#pragma once

#include "ops/row_inputs.h"

namespace dmrec {

// One row for all, or one each.
inline void check_bias(const Tensor& bias, int64_t n_rows, const Tensor& dense) {
  const bool fits = bias.dim() == 1 ? bias.size(0) == dense.size(1)
                                    : bias.dim() == 2 && bias.size(0) == n_rows && bias.size(1) == dense.size(1);
  STD_TORCH_CHECK(fits, "csr_aggregate: bias must have the shape (E,) or (B, E)");
  STD_TORCH_CHECK(bias.scalar_type() == dense.scalar_type() && bias.device() == dense.device(),
                  "csr_aggregate: bias must have the dtype and device of dense");
}

}  // namespace dmrec

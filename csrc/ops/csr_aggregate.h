// Checks of csr_aggregate, once for all devices: dtypes, a bias that fits.
#pragma once

#include "ops/csr_input.h"

namespace dmrec {

// What a matrix of 16-bit floats may be combined with: itself, or what it is computed in.
inline bool combines(ScalarType dense, ScalarType other) {
  return other == dense || (other == ScalarType::Float && arithmetic_type(dense) == ScalarType::Float);
}

// The dtype of the result, and of the values of x.
inline ScalarType checked_result_type(const CsrInput& x, const Tensor& dense, std::optional<ScalarType> dtype) {
  x.check_operand("csr_aggregate", "dense", dense);
  const ScalarType type = dtype.value_or(dense.scalar_type());
  STD_TORCH_CHECK(combines(dense.scalar_type(), type),
                  "csr_aggregate: dtype must be that of dense, or float32 where that has 16 bits");
  STD_TORCH_CHECK(!x.values.has_value() || x.values->scalar_type() == type,
                  "csr_aggregate: values must have the dtype of ", dtype.has_value() ? "the result" : "dense");
  return type;
}

// One row for all, or one each.
inline void check_bias(const Tensor& bias, int64_t n_rows, const Tensor& dense, ScalarType type) {
  const bool fits = bias.dim() == 1 ? bias.size(0) == dense.size(1)
                                    : bias.dim() == 2 && bias.size(0) == n_rows && bias.size(1) == dense.size(1);
  STD_TORCH_CHECK(fits, "csr_aggregate: bias must have the shape (E,) or (B, E)");
  STD_TORCH_CHECK(bias.scalar_type() == type && bias.device() == dense.device(),
                  "csr_aggregate: bias must have the dtype of the result and the device of dense");
}

// The operands of _csr_dot.
inline void check_dot_operands(const CsrInput& x, const Tensor& rows, const Tensor& dense) {
  const char* op = "_csr_dot";
  x.check_operand(op, "dense", dense);
  x.check_operand(op, "rows", rows);
  STD_TORCH_CHECK(
      rows.size(0) == x.n_rows() && rows.size(1) == dense.size(1) && combines(dense.scalar_type(), rows.scalar_type()),
      op, ": rows must be (B, E), in the dtype of dense, or in float32 where that has 16 bits");
}

}  // namespace dmrec

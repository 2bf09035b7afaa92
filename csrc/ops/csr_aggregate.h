// Checks of csr_aggregate, once for all devices: a CSR matrix whose parts fit together, matrices that fit it.
#pragma once

#include "ops/row_inputs.h"

namespace dmrec {

inline bool is_index_vector(const Tensor& tensor) {
  return tensor.dim() == 1 && tensor.scalar_type() == ScalarType::Long;
}

// A sparse (B, N) matrix; contiguous. `values` null means ones.
struct CsrInput {
  Tensor crow, col;
  std::optional<Tensor> values;

  int64_t n_rows() const { return crow.size(0) - 1; }
  int64_t nnz() const { return col.size(0); }

  CsrInput(const char* op, Tensor crow_given, Tensor col_given, std::optional<Tensor> values_given)
      : crow(std::move(crow_given)), col(std::move(col_given)), values(std::move(values_given)) {
    STD_TORCH_CHECK(is_index_vector(crow) && crow.size(0) >= 1, op, ": crow must be an int64 vector of B + 1 offsets");
    STD_TORCH_CHECK(is_index_vector(col), op, ": col must be an int64 vector");
    STD_TORCH_CHECK(crow.device() == col.device(), op, ": crow and col must be on one device");
    if (values.has_value()) {
      STD_TORCH_CHECK(values->dim() == 1 && values->size(0) == col.size(0), op, ": values must have one per column");
      STD_TORCH_CHECK(values->device() == col.device(), op, ": values must be on the device of col");
      values = torch::stable::contiguous(*values);
    }
    crow = torch::stable::contiguous(crow);
    col = torch::stable::contiguous(col);
  }

  void check_operand(const char* op, const char* name, const Tensor& matrix) const {
    check_rows(op, {matrix});
    STD_TORCH_CHECK(matrix.device() == col.device(), op, ": ", name, " must be on the device of crow and col");
    STD_TORCH_CHECK(!values.has_value() || values->scalar_type() == matrix.scalar_type(), op,
                    ": values must have the dtype of ", name);
  }
};

// One row for all, or one each.
inline void check_bias(const Tensor& bias, int64_t n_rows, const Tensor& dense) {
  const bool fits = bias.dim() == 1 ? bias.size(0) == dense.size(1)
                                    : bias.dim() == 2 && bias.size(0) == n_rows && bias.size(1) == dense.size(1);
  STD_TORCH_CHECK(fits, "csr_aggregate: bias must have the shape (E,) or (B, E)");
  STD_TORCH_CHECK(bias.scalar_type() == dense.scalar_type() && bias.device() == dense.device(),
                  "csr_aggregate: bias must have the dtype and device of dense");
}

}  // namespace dmrec

// A sparse matrix as operators take it: three tensors whose parts fit together, checked once for all devices.
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
  }
};

}  // namespace dmrec

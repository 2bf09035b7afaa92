// What every row operator needs of its inputs, checked once for all devices: 2-d, one shape, one dtype, one device.
// The messages for people are written in Python; these keep callers of torch.ops from reading beyond a tensor.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <utility>
#include <vector>

namespace dmrec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_rows(const char* op, const std::vector<Tensor>& rows) {
  const Tensor& first = rows.front();
  const ScalarType dtype = first.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  op, ": inputs must be float32, float64, float16 or bfloat16");
  for (const Tensor& row : rows) {
    STD_TORCH_CHECK(row.dim() == 2 && row.size(0) == first.size(0) && row.size(1) == first.size(1), op,
                    ": inputs must be matrices of one shape");
    STD_TORCH_CHECK(row.scalar_type() == dtype, op, ": inputs must have one dtype");
    STD_TORCH_CHECK(row.device() == first.device(), op, ": inputs must be on one device");
  }
}

inline std::vector<Tensor> checked_rows(const char* op, std::vector<Tensor> rows) {
  check_rows(op, rows);
  return rows;
}

// The type that elements are computed with: 16-bit ones in float32.
inline ScalarType arithmetic_type(ScalarType stored) {
  return stored == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// One value per row: the incoming gradient.
inline void check_row_vector(const char* op, const char* what, const Tensor& vector, const Tensor& rows) {
  STD_TORCH_CHECK(vector.dim() == 1 && vector.size(0) == rows.size(0), op, ": ", what, " must have one value per row");
  STD_TORCH_CHECK(vector.scalar_type() == rows.scalar_type(), op, ": ", what, " must have the dtype of the inputs");
  STD_TORCH_CHECK(vector.device() == rows.device(), op, ": ", what, " must be on the device of the inputs");
}

// One value per row that the forward kept for the backward, in the arithmetic type.
inline void check_saved(const char* op, const Tensor& saved, const Tensor& rows) {
  STD_TORCH_CHECK(saved.dim() == 1 && saved.size(0) == rows.size(0) && saved.is_contiguous() &&
                      saved.scalar_type() == arithmetic_type(rows.scalar_type()) && saved.device() == rows.device(),
                  op, ": the saved value must be contiguous, one per row, in the arithmetic type of the inputs");
}

// For `needed` rows, or without elements.
inline Tensor new_saved(const Tensor& rows, bool needed) {
  return torch::stable::new_empty(rows, {needed ? rows.size(0) : 0}, arithmetic_type(rows.scalar_type()));
}

// Any row stride is read in place (slices of a wider matrix, one row expanded); elements must lie side by side.
inline Tensor with_adjacent_elements(Tensor rows) {
  if (rows.size(1) <= 1 || rows.stride(1) == 1) return rows;
  return torch::stable::contiguous(rows);
}

}  // namespace dmrec

// Checks of multinomial_nll, once for all devices.
#pragma once

#include "ops/csr_aggregate.h"

namespace dmrec {

// The type that products are formed in, and that of sums.
inline ScalarType nll_product_type(const Tensor& weight, bool bf16) {
  if (weight.scalar_type() == ScalarType::Double) return ScalarType::Double;
  return bf16 ? ScalarType::BFloat16 : ScalarType::Float;
}
inline ScalarType nll_arithmetic_type(const Tensor& weight) {
  return weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_nll_inputs(const Tensor& hidden, const Tensor& weight, const CsrInput& x,
                             const std::optional<Tensor>& bias) {
  const char* op = "multinomial_nll";
  check_rows(op, {hidden});
  check_rows(op, {weight});
  STD_TORCH_CHECK(hidden.device() == weight.device() && hidden.device() == x.col.device(), op,
                  ": all inputs must be on one device");
  STD_TORCH_CHECK(hidden.size(1) == weight.size(1), op, ": weight must have the width of hidden");
  STD_TORCH_CHECK(x.n_rows() == hidden.size(0), op, ": x must have a row per row of hidden");
  if (x.values) check_rows(op, {torch::stable::unsqueeze(*x.values, 0)});
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0), op, ": bias must be (N,)");
    STD_TORCH_CHECK(bias->device() == hidden.device(), op, ": all inputs must be on one device");
    check_rows(op, {torch::stable::unsqueeze(*bias, 0)});
  }
}

inline void check_nll_gradient(const Tensor& grad, const Tensor& log_sums, const Tensor& logits, const Tensor& hidden,
                               const Tensor& weight, const std::optional<Tensor>& bias, bool bf16, int64_t needed) {
  const char* op = "multinomial_nll";
  STD_TORCH_CHECK((needed & 4) == 0 || bias.has_value(), op, ": there is no bias to have a gradient");
  STD_TORCH_CHECK(grad.dim() == 1 && grad.size(0) == hidden.size(0) && log_sums.dim() == 2 && log_sums.size(0) == 2 &&
                      log_sums.size(1) == hidden.size(0),
                  op, ": grad must have one value per row, log_sums two");
  for (const Tensor& vector : {grad, log_sums}) {
    STD_TORCH_CHECK(vector.scalar_type() == nll_arithmetic_type(weight) && vector.device() == hidden.device(), op,
                    ": grad and log_sums must have the dtype of the loss");
  }
  STD_TORCH_CHECK(logits.numel() == 0 ||
                      (logits.dim() == 2 && logits.size(0) == hidden.size(0) && logits.size(1) == weight.size(0) &&
                       logits.is_contiguous() && logits.device() == hidden.device() &&
                       logits.scalar_type() == nll_product_type(weight, bf16)),
                  op, ": logits must be those of the forward");
}

}  // namespace dmrec

// Checks of rank_topk, once for all devices.
#pragma once

#include "ops/row_inputs.h"

namespace dmrec {

// Of the items, for all queries; see the schema.
struct PreparedItems {
  Tensor filter_bias, maxima, in_bf16;
};

inline bool wants_copy(const Tensor& items, bool bf16) {
  return bf16 && items.scalar_type() != ScalarType::Double && items.scalar_type() != ScalarType::BFloat16;
}

inline void check_items(const char* op, const Tensor& items, const std::optional<Tensor>& bias) {
  check_rows(op, {items});
  STD_TORCH_CHECK(!bias.has_value() || (bias->dim() == 1 && bias->size(0) == items.size(0) &&
                                        bias->scalar_type() == items.scalar_type() && bias->device() == items.device()),
                  op, ": bias must be (N,), in the dtype of the items");
}

// All three parts, or none.
inline std::optional<PreparedItems> prepared_items(const Tensor& items, bool bf16, std::optional<Tensor> filter_bias,
                                                   std::optional<Tensor> maxima, std::optional<Tensor> in_bf16) {
  const char* op = "rank_topk";
  STD_TORCH_CHECK(filter_bias.has_value() == maxima.has_value() && maxima.has_value() == in_bf16.has_value(), op,
                  ": give all parts of prepared items, or none");
  if (!maxima) return std::nullopt;
  const int64_t n_copied = wants_copy(items, bf16) ? items.size(0) : 0;
  STD_TORCH_CHECK(filter_bias->dim() == 1 && filter_bias->size(0) == items.size(0) && filter_bias->is_contiguous() &&
                      filter_bias->scalar_type() == arithmetic_type(items.scalar_type()) && maxima->dim() == 2 &&
                      maxima->size(0) == 2 && maxima->size(1) >= 1 && maxima->is_contiguous() &&
                      maxima->scalar_type() == ScalarType::Double && in_bf16->dim() == 2 &&
                      in_bf16->size(0) == n_copied && in_bf16->is_contiguous() && in_bf16->size(1) == items.size(1) &&
                      in_bf16->scalar_type() == ScalarType::BFloat16,
                  op, ": prepared items are not those of these items and this precision");
  for (const Tensor& part : {*filter_bias, *maxima, *in_bf16}) {
    STD_TORCH_CHECK(part.device() == items.device(), op, ": prepared items must be on the device of items");
  }
  return PreparedItems{std::move(*filter_bias), std::move(*maxima), std::move(*in_bf16)};
}

inline void check_ranking_inputs(const Tensor& query, const Tensor& items, int64_t k, const std::optional<Tensor>& bias,
                                 const std::optional<Tensor>& exclude_crow, const std::optional<Tensor>& exclude_col,
                                 const std::optional<Tensor>& at_least) {
  const char* op = "rank_topk";
  check_rows(op, {query});
  check_items(op, items, bias);
  STD_TORCH_CHECK(
      items.scalar_type() == query.scalar_type() && items.device() == query.device() && items.size(1) == query.size(1),
      op, ": items must have the dtype, device and width of query");
  STD_TORCH_CHECK(k >= 1 && k < int64_t{1} << 31, op, ": k must be at least 1 and below 2^31");
  STD_TORCH_CHECK(exclude_crow.has_value() == exclude_col.has_value(), op, ": give both parts of exclude, or neither");
  STD_TORCH_CHECK(!exclude_col.has_value() || exclude_col->device() == query.device(), op,
                  ": exclude must be on the device of query");
  STD_TORCH_CHECK(
      !at_least.has_value() || (at_least->dim() == 1 && at_least->size(0) == query.size(0) &&
                                at_least->scalar_type() == ScalarType::Double && at_least->device() == query.device()),
      op, ": at_least must be (B,), in float64, on the device of query");
}

}  // namespace dmrec

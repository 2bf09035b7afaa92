// Checks of rank_topk, once for all devices.
#pragma once

#include "ops/row_inputs.h"

namespace dmrec {

inline void check_ranking_inputs(const Tensor& query, const Tensor& items, int64_t k, const std::optional<Tensor>& bias,
                                 const std::optional<Tensor>& exclude_crow, const std::optional<Tensor>& exclude_col) {
  const char* op = "rank_topk";
  check_rows(op, {query});
  check_rows(op, {items});
  STD_TORCH_CHECK(
      items.scalar_type() == query.scalar_type() && items.device() == query.device() && items.size(1) == query.size(1),
      op, ": items must have the dtype, device and width of query");
  STD_TORCH_CHECK(k >= 1 && k < int64_t{1} << 31, op, ": k must be at least 1 and below 2^31");
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == items.size(0) && bias->scalar_type() == query.scalar_type() &&
                        bias->device() == query.device(),
                    op, ": bias must be (N,), in the dtype of query");
  }
  STD_TORCH_CHECK(exclude_crow.has_value() == exclude_col.has_value(), op, ": give both parts of exclude, or neither");
  STD_TORCH_CHECK(!exclude_col.has_value() || exclude_col->device() == query.device(), op,
                  ": exclude must be on the device of query");
}

}  // namespace dmrec

// Checks of code_alignment, once for all devices.
#pragma once

#include <cmath>
#include <string>

#include "math/code_alignment.h"
#include "ops/aten_calls.h"
#include "ops/row_inputs.h"

namespace dmrec {

// Logits in the type of arithmetic, contiguous, and the options.
struct AlignmentInput {
  Tensor target, prediction;  // (B, L, C)
  std::optional<Tensor> level_weights;
  ScalarType given, arithmetic;
  int64_t n_rows, levels, codes;
  bool forward, reverse, leave_one_out;
  double slope;

  AlignmentInput(const Tensor& given_target, const Tensor& given_prediction, const std::string& direction,
                 const std::string& negative, const std::optional<Tensor>& weights, double given_slope) {
    const char* op = "code_alignment";
    STD_TORCH_CHECK(given_target.dim() == 3 && given_prediction.dim() == 3, op, ": logits must be (B, L, C)");
    for (int64_t d = 0; d < 3; ++d) {
      STD_TORCH_CHECK(given_target.size(d) == given_prediction.size(d), op, ": logits must have one shape");
    }
    given = given_target.scalar_type();
    check_rows(op, {torch::stable::new_empty(given_target, {0, 0})});
    STD_TORCH_CHECK(given_prediction.scalar_type() == given && given_prediction.device() == given_target.device(), op,
                    ": logits must have one dtype and device");
    STD_TORCH_CHECK(direction == "forward" || direction == "reverse" || direction == "symmetric", op,
                    ": direction must be forward, reverse or symmetric");
    STD_TORCH_CHECK(negative == "batch_mean" || negative == "leave_one_out", op,
                    ": negative must be batch_mean or leave_one_out");
    STD_TORCH_CHECK(given_slope > 0, op, ": slope must be positive");
    arithmetic = arithmetic_type(given);
    n_rows = given_target.size(0);
    levels = given_target.size(1);
    codes = given_target.size(2);
    // rows are numbers of the type of arithmetic in `columns`
    STD_TORCH_CHECK(n_rows < int64_t{1} << 24, op, ": at most 2^24 rows");
    forward = direction != "reverse";
    reverse = direction != "forward";
    leave_one_out = negative == "leave_one_out";
    STD_TORCH_CHECK(!leave_one_out || n_rows != 1, op, ": leave_one_out needs at least 2 rows");
    slope = given_slope;
    target = torch::stable::contiguous(in_type(given_target, arithmetic));
    prediction = torch::stable::contiguous(in_type(given_prediction, arithmetic));
    if (weights) {
      STD_TORCH_CHECK(weights->dim() == 1 && weights->size(0) == levels && weights->scalar_type() == arithmetic &&
                          weights->device() == target.device(),
                      op, ": level_weights must have one number per level, in the type of arithmetic");
      level_weights = torch::stable::contiguous(*weights);
    }
  }

  // the log of the number of rows that a negative is the mean of
  double log_rows() const { return std::log(static_cast<double>(std::max<int64_t>(n_rows - leave_one_out, 1))); }
};

inline void check_alignment_gradient(const AlignmentInput& input, const Tensor& grad, const Tensor& row_sums,
                                     const Tensor& columns, const Tensor& delta, const Tensor& kept) {
  const char* op = "code_alignment";
  for (const Tensor& vector : {grad, delta}) {
    STD_TORCH_CHECK(vector.dim() == 1 && vector.size(0) == input.n_rows && vector.scalar_type() == input.arithmetic &&
                        vector.device() == input.target.device(),
                    op, ": grad and delta must have one value per row, in the dtype of the loss");
  }
  STD_TORCH_CHECK(row_sums.dim() == 3 && row_sums.size(0) == 4 && row_sums.size(1) == input.n_rows &&
                      row_sums.size(2) == input.levels && columns.dim() == 3 && columns.size(0) == 4 &&
                      columns.size(1) == input.levels && columns.size(2) == input.codes && kept.dim() == 4 &&
                      (kept.size(0) == 0 || kept.size(0) == 2) && kept.size(1) == input.n_rows &&
                      kept.size(2) == input.levels && kept.size(3) == input.codes,
                  op, ": row_sums, columns and kept must be those of the forward");
  for (const Tensor& saved : {row_sums, columns, kept}) {
    STD_TORCH_CHECK(
        saved.scalar_type() == input.arithmetic && saved.is_contiguous() && saved.device() == input.target.device(), op,
        ": row_sums, columns and kept must be those of the forward");
  }
}

// body.template operator()<AlignmentKind<..>>()
template <class Body>
auto with_alignment_kind(const AlignmentInput& input, const Body& body) {
  const auto with_negative = [&]<bool forward, bool reverse>() {
    return input.leave_one_out ? body.template operator()<AlignmentKind<forward, reverse, true>>()
                               : body.template operator()<AlignmentKind<forward, reverse, false>>();
  };
  if (!input.reverse) return with_negative.template operator()<true, false>();
  return input.forward ? with_negative.template operator()<true, true>()
                       : with_negative.template operator()<false, true>();
}

}  // namespace dmrec

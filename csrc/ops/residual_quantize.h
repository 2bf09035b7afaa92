// Checks of residual_quantize, once for all devices. With r_1 = x and r_{l+1} = r_l - C_l[c_l]:
//   loss = (1 + beta) sum_l |r_{l+1}|^2
//   d loss / d x        = 2 beta (r_2 for `first`, sum_l r_{l+1} otherwise)
//   d loss / d C_l[c_l] = -2 r_{l+1}, and for `full` -2 beta sum_{m > l} r_{m+1}
#pragma once

#include <string>

#include "ops/aten_calls.h"
#include "ops/row_inputs.h"

namespace dmrec {

enum class ResidualGradient { first, all, full };

inline ResidualGradient residual_gradient_of(const std::string& name) {
  STD_TORCH_CHECK(name == "first" || name == "all" || name == "full",
                  "residual_quantize: residual_gradient must be first, all or full");
  return name == "first" ? ResidualGradient::first : name == "all" ? ResidualGradient::all : ResidualGradient::full;
}

// x and codebooks in the type of arithmetic, contiguous.
struct QuantizeInput {
  Tensor x, codebooks;
  ScalarType given, arithmetic;
  int64_t n_rows, levels, codes, width;

  QuantizeInput(const Tensor& given_x, const Tensor& given_codebooks, double beta) {
    const char* op = "residual_quantize";
    check_rows(op, {given_x});
    STD_TORCH_CHECK(given_codebooks.dim() == 3 && given_codebooks.size(2) == given_x.size(1) &&
                        given_codebooks.size(1) > 0 && given_codebooks.size(1) < int64_t{1} << 31,
                    op, ": codebooks must be (levels, codes, width of x), with 1 to 2^31 - 1 codes");
    STD_TORCH_CHECK(
        given_codebooks.scalar_type() == given_x.scalar_type() && given_codebooks.device() == given_x.device(), op,
        ": codebooks must have the dtype and device of x");
    STD_TORCH_CHECK(beta >= 0, op, ": beta must be at least 0");
    given = given_x.scalar_type();
    arithmetic = arithmetic_type(given);
    n_rows = given_x.size(0);
    levels = given_codebooks.size(0);
    codes = given_codebooks.size(1);
    width = given_x.size(1);
    x = torch::stable::contiguous(in_type(given_x, arithmetic));
    codebooks = torch::stable::contiguous(in_type(given_codebooks, arithmetic));
  }
};

// What the backward is given in addition, checked and contiguous.
struct QuantizeGradient {
  std::optional<Tensor> of_quantized, of_loss;  // in the type of arithmetic
  Tensor codes, code_begin, code_rows;

  QuantizeGradient(const QuantizeInput& input, std::optional<Tensor> grad_quantized, std::optional<Tensor> grad_loss,
                   const Tensor& given_codes, const Tensor& given_begin, const Tensor& given_rows) {
    const char* op = "residual_quantize";
    if (grad_quantized) {
      STD_TORCH_CHECK(grad_quantized->dim() == 2 && grad_quantized->size(0) == input.n_rows &&
                          grad_quantized->size(1) == input.width && grad_quantized->scalar_type() == input.given &&
                          grad_quantized->device() == input.x.device(),
                      op, ": grad_quantized must be like x");
      of_quantized = torch::stable::contiguous(in_type(*grad_quantized, input.arithmetic));
    }
    if (grad_loss) {
      check_row_vector(op, "grad_loss", *grad_loss, torch::stable::new_empty(input.x, {input.n_rows, 0}, input.given));
      of_loss = torch::stable::contiguous(in_type(*grad_loss, input.arithmetic));
    }
    check(given_codes, input.n_rows, input.levels, input.x);
    check(given_begin, input.levels, input.codes + 1, input.x);
    check(given_rows, input.levels, input.n_rows, input.x);
    codes = torch::stable::contiguous(given_codes);
    code_begin = torch::stable::contiguous(given_begin);
    code_rows = torch::stable::contiguous(given_rows);
  }

 private:
  static void check(const Tensor& indices, int64_t n_rows, int64_t n_cols, const Tensor& x) {
    STD_TORCH_CHECK(indices.dim() == 2 && indices.size(0) == n_rows && indices.size(1) == n_cols &&
                        indices.scalar_type() == ScalarType::Long && indices.device() == x.device(),
                    "residual_quantize: codes, code_begin and code_rows must be int64, (B, L), (L, C + 1) and (L, B)");
  }
};

}  // namespace dmrec

// residual_quantize on CUDA: kernels of residual_quantize.cuh. Scratch: the transposed codebooks, and what is left of
// each row.
#include <string>
#include <tuple>

#include "ops/cuda/binding.h"
#include "ops/cuda/residual_quantize_launch.h"
#include "ops/residual_quantize.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "residual_quantize";

QuantizeJob job_of(const QuantizeInput& input, double beta) {
  return {data_to_read(input.x, "x"),
          data_to_read(input.codebooks, "codebooks"),
          input.n_rows,
          input.levels,
          input.codes,
          input.width,
          beta};
}

std::tuple<Tensor, Tensor, Tensor> residual_quantize(Tensor x, Tensor codebooks, double beta, std::string kind) {
  residual_gradient_of(kind);
  const OnDevice device(x);
  const QuantizeInput input(x, codebooks, beta);
  const Tensor codes = torch::stable::new_empty(input.x, {input.n_rows, input.levels}, ScalarType::Long);
  const Tensor quantized = torch::stable::new_empty(input.x, {input.n_rows, input.width});
  const Tensor loss = torch::stable::new_empty(input.x, {input.n_rows});
  if (input.n_rows > 0) {
    Tensor books = input.codebooks;
    const Tensor transposed = torch::stable::contiguous(torch::stable::transpose(books, 1, 2));
    const Tensor left = torch::stable::new_empty(input.x, {input.n_rows, input.width});
    check_launch(op, launch_quantize_rows(type_of(input.arithmetic), job_of(input, beta),
                                          data_to_read(transposed, "transposed codebooks"), data_to_fill(left, "left"),
                                          data_to_fill(quantized, "quantized"), data_to_fill(loss, "loss"),
                                          static_cast<int64_t*>(data_to_fill(codes, "codes")), device.stream()));
  }
  return {in_type(quantized, input.given), in_type(loss, input.given), codes};
}

std::vector<Tensor> residual_quantize_backward(std::optional<Tensor> grad_quantized, std::optional<Tensor> grad_loss,
                                               Tensor x, Tensor codebooks, Tensor codes, Tensor code_begin,
                                               Tensor code_rows, double beta, std::string kind, int64_t needed) {
  const ResidualGradient of = residual_gradient_of(kind);
  const OnDevice device(x);
  const QuantizeInput input(x, codebooks, beta);
  const QuantizeGradient given(input, std::move(grad_quantized), std::move(grad_loss), codes, code_begin, code_rows);
  const QuantizeJob job = job_of(input, beta);
  const QuantizeGradientJob gradient{given.of_quantized ? data_to_read(*given.of_quantized, "grad_quantized") : nullptr,
                                     given.of_loss ? data_to_read(*given.of_loss, "grad_loss") : nullptr,
                                     static_cast<const int64_t*>(data_to_read(given.codes, "codes")),
                                     static_cast<const int64_t*>(data_to_read(given.code_begin, "code_begin")),
                                     static_cast<const int64_t*>(data_to_read(given.code_rows, "code_rows")),
                                     of == ResidualGradient::first,
                                     of == ResidualGradient::full};
  const Type type = type_of(input.arithmetic);
  std::vector<Tensor> result;
  if (needed & 1) {
    const Tensor out = torch::stable::new_empty(input.x, {input.n_rows, input.width});
    if (out.numel() > 0) {
      check_launch(op, launch_quantize_gradient_of_rows(type, job, gradient, data_to_fill(out, "gradient of x"),
                                                        device.stream()));
    }
    result.push_back(in_type(out, input.given));
  }
  if (needed & 2) {
    const Tensor out = torch::stable::new_empty(input.x, {input.levels, input.codes, input.width});
    if (out.numel() > 0) {
      check_launch(op, launch_quantize_gradient_of_codes(type, job, gradient,
                                                         data_to_fill(out, "gradient of codebooks"), device.stream()));
    }
    result.push_back(in_type(out, input.given));
  }
  return result;
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("residual_quantize", TORCH_BOX(&dmrec::cuda::residual_quantize));
  m.impl("_residual_quantize_backward", TORCH_BOX(&dmrec::cuda::residual_quantize_backward));
}

// code_alignment on CUDA: kernels of code_alignment.cuh. Scratch: (L, B) parts of delta; for the gradients (B,) and
// (2, L, C).
#include <string>
#include <tuple>

#include "ops/code_alignment.h"
#include "ops/cuda/binding.h"
#include "ops/cuda/code_alignment_launch.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "code_alignment";

AlignmentJob job_of(const AlignmentInput& input) {
  return {type_of(input.arithmetic),
          input.forward,
          input.reverse,
          input.leave_one_out,
          data_to_read(input.target, "target"),
          data_to_read(input.prediction, "prediction"),
          input.level_weights ? data_to_read(*input.level_weights, "level_weights") : nullptr,
          input.n_rows,
          input.levels,
          input.codes,
          input.log_rows(),
          input.slope,
          nullptr,
          nullptr};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> code_alignment(Tensor target, Tensor prediction,
                                                                  std::string direction, std::string negative, bool,
                                                                  std::optional<Tensor> weights, double slope, bool) {
  const OnDevice device(target);
  const AlignmentInput input(target, prediction, direction, negative, weights, slope);
  const Tensor loss = torch::stable::new_empty(input.target, {input.n_rows});
  const Tensor row_sums = torch::stable::new_empty(input.target, {4, input.n_rows, input.levels});
  const Tensor columns = torch::stable::new_zeros(input.target, {4, input.levels, input.codes});
  const Tensor delta = torch::stable::new_empty(input.target, {input.n_rows});
  if (input.n_rows > 0) {
    AlignmentJob job = job_of(input);
    job.row_sums = data_to_fill(row_sums, "row sums");
    job.columns = data_to_fill(columns, "columns");
    if (row_sums.numel() > 0) check_launch(op, launch_alignment_row_sums(job, device.stream()));
    if (columns.numel() > 0) check_launch(op, launch_alignment_columns(job, device.stream()));
    const Tensor gaps = torch::stable::new_zeros(input.target, {input.levels, input.n_rows});
    void* to_gaps = data_to_fill(gaps, "gaps");
    was_filled(gaps);
    check_launch(op, launch_alignment_losses(job, to_gaps, data_to_fill(delta, "delta"), data_to_fill(loss, "loss"),
                                             device.stream()));
  }
  // exponentials cost less than what is kept would have to be read again
  return {loss, row_sums, columns, delta,
          torch::stable::new_empty(input.target, {0, input.n_rows, input.levels, input.codes})};
}

std::vector<Tensor> code_alignment_backward(Tensor grad, Tensor target, Tensor prediction, Tensor row_sums,
                                            Tensor columns, Tensor delta, Tensor kept, std::string direction,
                                            std::string negative, bool detached, std::optional<Tensor> weights,
                                            double slope, int64_t needed) {
  const OnDevice device(target);
  const AlignmentInput input(target, prediction, direction, negative, weights, slope);
  check_alignment_gradient(input, grad, row_sums, columns, delta, kept);
  grad = torch::stable::contiguous(grad);
  delta = torch::stable::contiguous(delta);
  const Tensor d_target =
      torch::stable::new_empty(input.target, {needed & 1 ? input.n_rows : 0, input.levels, input.codes});
  const Tensor d_prediction =
      torch::stable::new_empty(input.target, {needed & 2 ? input.n_rows : 0, input.levels, input.codes});
  if (input.target.numel() > 0) {
    AlignmentJob job = job_of(input);
    job.row_sums = const_cast<void*>(data_to_read(row_sums, "row sums"));
    job.columns = const_cast<void*>(data_to_read(columns, "columns"));
    const Tensor of_delta = torch::stable::new_empty(input.target, {input.n_rows});
    const Tensor of_columns = torch::stable::new_empty(input.target, {detached ? 0 : 2, input.levels, input.codes});
    const AlignmentGradientJob of{data_to_read(grad, "grad"),
                                  data_to_read(delta, "delta"),
                                  data_to_fill(of_delta, "gradient of delta"),
                                  detached ? nullptr : data_to_fill(of_columns, "gradient of columns"),
                                  needed & 1 ? data_to_fill(d_target, "gradient of target") : nullptr,
                                  needed & 2 ? data_to_fill(d_prediction, "gradient of prediction") : nullptr};
    check_launch(op, launch_alignment_gradient(job, of, device.stream()));
  }
  std::vector<Tensor> result;
  if (needed & 1) result.push_back(in_type(d_target, input.given));
  if (needed & 2) result.push_back(in_type(d_prediction, input.given));
  return result;
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("code_alignment", TORCH_BOX(&dmrec::cuda::code_alignment));
  m.impl("_code_alignment_backward", TORCH_BOX(&dmrec::cuda::code_alignment_backward));
}

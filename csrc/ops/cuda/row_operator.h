// From tensors to a RowJob: what the bindings of all row operators share. `launch(job, stream)` is the operator's own.
#pragma once

#include "ops/cuda/binding.h"
#include "ops/cuda/row_launch.h"

namespace dmrec::cuda {

inline constexpr const char* input_names[RowJob::most_inputs] = {"input 1", "input 2", "input 3", "input 4"};
inline constexpr const char* gradient_names[RowJob::most_inputs] = {"gradient 1", "gradient 2", "gradient 3",
                                                                    "gradient 4"};

// The job's inputs; `rows` have passed check_rows and must outlive it.
inline RowJob row_job(std::vector<Tensor>& rows) {
  RowJob job{};
  job.type = type_of(rows[0].scalar_type());
  job.n_rows = rows[0].size(0);
  job.width = rows[0].size(1);
  job.aligned = true;
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = with_adjacent_elements(std::move(rows[i]));
    job.in[i] = data_to_read(rows[i], input_names[i]);
    job.stride[i] = rows[i].stride(0);
    job.aligned = job.aligned && rows_aligned(rows[i]);
  }
  return job;
}

// Where the gradients go whose bits are set in `needed`: tensors in that order from `next` on.
inline void fill_gradients(RowJob& job, std::vector<Tensor>::iterator next, size_t n_inputs, int64_t needed) {
  for (size_t i = 0; i < n_inputs; ++i) {
    if ((needed >> i & 1) == 0) continue;
    job.aligned = job.aligned && rows_aligned(*next);
    job.gradients[i] = data_to_fill(*next++, gradient_names[i]);
  }
}

// `saved`, if given, is a (B,) tensor of the arithmetic type to fill
template <class Launch>
Tensor row_forward(const char* op, std::vector<Tensor> rows, Tensor* saved, const Launch& launch) {
  const OnDevice device(rows[0]);
  Tensor out = torch::stable::new_empty(rows[0], {rows[0].size(0)});
  if (out.numel() == 0) return out;
  RowJob job = row_job(rows);
  job.pass = RowPass::forward;
  job.out = data_to_fill(out, "result");
  if (saved) job.saved = data_to_fill(*saved, "saved");
  check_launch(op, launch(job, device.stream()));
  return out;
}

template <class Launch>
std::vector<Tensor> row_backward(const char* op, std::vector<Tensor> rows, const Tensor& grad, const Tensor* saved,
                                 int64_t needed, const Launch& launch) {
  check_row_vector(op, "the gradient", grad, rows[0]);
  if (saved) check_saved(op, *saved, rows[0]);
  const OnDevice device(rows[0]);
  const int64_t n_rows = rows[0].size(0), width = rows[0].size(1);
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (needed >> i & 1) gradients.push_back(torch::stable::new_empty(rows[0], {n_rows, width}));
  }
  if (gradients.empty() || gradients[0].numel() == 0) return gradients;
  RowJob job = row_job(rows);
  job.pass = RowPass::backward;
  job.grad = data_to_read(grad, "grad");
  job.grad_stride = grad.stride(0);
  if (saved) job.saved = const_cast<void*>(data_to_read(*saved, "saved"));
  fill_gradients(job, gradients.begin(), rows.size(), needed);
  check_launch(op, launch(job, device.stream()));
  return gradients;
}

// The sum of all rows' values, multiplied by `scale`: (), and behind it the gradients whose bits are set in `needed`.
template <class Launch>
std::vector<Tensor> row_reduced(const char* op, std::vector<Tensor> rows, double scale, int64_t needed,
                                const Launch& launch) {
  const OnDevice device(rows[0]);
  const int64_t n_rows = rows[0].size(0), width = rows[0].size(1);
  std::vector<Tensor> results{torch::stable::new_empty(rows[0], {})};
  for (size_t i = 0; i < rows.size(); ++i) {
    if (needed >> i & 1) results.push_back(torch::stable::new_empty(rows[0], {n_rows, width}));
  }
  Tensor values = torch::stable::new_empty(rows[0], {n_rows}, arithmetic_type(rows[0].scalar_type()));
  RowJob job = row_job(rows);
  job.values = data_to_fill(values, "values");
  if (n_rows > 0) {
    const bool both = results.size() > 1 && width > 0;
    job.pass = both ? RowPass::both : RowPass::forward;
    job.grad_of_all = scale;
    if (both) fill_gradients(job, results.begin() + 1, rows.size(), needed);
    check_launch(op, launch(job, device.stream()));
  }
  check_launch(
      op, launch_sum_of_rows(job.type, job.values, n_rows, scale, data_to_fill(results[0], "result"), device.stream()));
  return results;
}

}  // namespace dmrec::cuda

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

// `saved`, if given, is a (B,) tensor of the arithmetic type to fill
template <class Launch>
Tensor row_forward(const char* op, std::vector<Tensor> rows, Tensor* saved, const Launch& launch) {
  const OnDevice device(rows[0]);
  Tensor out = torch::stable::new_empty(rows[0], {rows[0].size(0)});
  if (out.numel() == 0) return out;
  RowJob job = row_job(rows);
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
  job.grad = data_to_read(grad, "grad");
  job.grad_stride = grad.stride(0);
  if (saved) job.saved = const_cast<void*>(data_to_read(*saved, "saved"));
  auto next = gradients.begin();
  for (size_t i = 0; i < rows.size(); ++i) {
    if ((needed >> i & 1) == 0) continue;
    job.aligned = job.aligned && rows_aligned(*next);
    job.gradients[i] = data_to_fill(*next++, gradient_names[i]);
  }
  check_launch(op, launch(job, device.stream()));
  return gradients;
}

}  // namespace dmrec::cuda

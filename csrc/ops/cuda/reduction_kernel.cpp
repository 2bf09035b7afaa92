// _multiply_unless_one_ on CUDA: from tensors to its launcher. The host does not wait to read the factor.
#include "ops/cuda/binding.h"
#include "ops/cuda/row_launch.h"
#include "ops/reduction.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "_multiply_unless_one_";

void multiply_unless_one(std::vector<Tensor> values, Tensor factor) {
  check_multiplied(values, factor);
  if (values.empty() || values[0].numel() == 0) return;
  STD_TORCH_CHECK(values.size() <= RowJob::most_inputs, op, ": takes ", RowJob::most_inputs, " tensors at most");
  const OnDevice device(factor);
  MultiplyJob job{};
  job.type = type_of(factor.scalar_type());
  job.factor = data_to_read(factor, "factor");
  job.n_vectors = static_cast<int>(values.size());
  job.n = values[0].numel();
  job.aligned = true;
  for (int i = 0; i < job.n_vectors; ++i) {
    job.vectors[i] = data_to_fill(values[i], "values");
    was_filled(values[i]);
    job.aligned = job.aligned && is_aligned(job.vectors[i]);
  }
  check_launch(op, launch_multiply_unless_one(job, device.stream()));
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) { m.impl("_multiply_unless_one_", TORCH_BOX(&dmrec::cuda::multiply_unless_one)); }

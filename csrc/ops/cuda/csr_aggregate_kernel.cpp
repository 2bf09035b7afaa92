// csr_aggregate on CUDA: from tensors to its launchers.
#include <array>
#include <limits>
#include <tuple>

#include "ops/csr_aggregate.h"
#include "ops/cuda/csr_aggregate_launch.h"
#include "ops/cuda/csr_binding.h"

namespace dmrec::cuda {
namespace {

Tensor csr_aggregate(Tensor crow, Tensor col, std::optional<Tensor> values, Tensor dense, std::optional<Tensor> bias,
                     std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>,
                     std::optional<ScalarType> dtype) {
  const char* op = "csr_aggregate";
  const CsrInput x(op, std::move(crow), std::move(col), std::move(values));
  const ScalarType type = checked_result_type(x, dense, dtype);
  if (bias.has_value()) {
    check_bias(*bias, x.n_rows(), dense, type);
    bias = bias->dim() == 1 ? torch::stable::contiguous(*bias) : with_adjacent_elements(std::move(*bias));
  }
  const OnDevice device(dense);
  dense = with_adjacent_elements(std::move(dense));
  Tensor out = torch::stable::new_empty(dense, {x.n_rows(), dense.size(1)}, type);
  if (out.numel() == 0) return out;
  CsrSumJob job{};
  job.type = type_of(dense.scalar_type());
  job.result = type_of(type);
  job.indices = indices_of(x, dense.size(0));
  if (x.values) job.values = data_to_read(*x.values, "values");
  job.dense = data_to_read(dense, "dense");
  job.dense_stride = dense.stride(0);
  job.aligned = rows_aligned(dense) && rows_aligned(out);
  if (bias) {
    job.bias = data_to_read(*bias, "bias");
    job.bias_stride = bias->dim() == 1 ? 0 : bias->stride(0);
    job.aligned = job.aligned && (bias->dim() == 1 ? is_aligned(job.bias) : rows_aligned(*bias));
  }
  job.out = data_to_fill(out, "result");
  job.width = dense.size(1);
  check_launch(op, launch_csr_sum(job, device.stream()));
  return out;
}

Tensor csr_dot(Tensor crow, Tensor col, Tensor rows, Tensor dense) {
  const char* op = "_csr_dot";
  const CsrInput x(op, std::move(crow), std::move(col), std::nullopt);
  check_dot_operands(x, rows, dense);
  const OnDevice device(dense);
  rows = with_adjacent_elements(std::move(rows));
  dense = with_adjacent_elements(std::move(dense));
  if (x.n_rows() == 0 || dense.size(0) == 0) return torch::stable::new_zeros(rows, {x.nnz()});
  Tensor out = torch::stable::new_empty(rows, {x.nnz()});
  if (out.numel() == 0) return out;
  CsrDotJob job{};
  job.type = type_of(dense.scalar_type());
  job.result = type_of(rows.scalar_type());
  job.indices = indices_of(x, dense.size(0));
  job.rows = data_to_read(rows, "rows");
  job.rows_stride = rows.stride(0);
  job.dense = data_to_read(dense, "dense");
  job.dense_stride = dense.stride(0);
  job.out = data_to_fill(out, "result");
  job.width = dense.size(1);
  job.aligned = rows_aligned(rows) && rows_aligned(dense);
  check_launch(op, launch_csr_dot(job, device.stream()));
  return out;
}

// Ascending, equal ones in their order: torch's sort, as the stable ABI has none.
std::tuple<Tensor, Tensor> stable_sort(const Tensor& vector) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(vector), from(std::optional<bool>(true)), from(int64_t{0}), from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

std::tuple<Tensor, Tensor, Tensor> csr_transpose(Tensor crow, Tensor col, int64_t n_cols) {
  const char* op = "_csr_transpose";
  const CsrInput x(op, std::move(crow), std::move(col), std::nullopt);
  STD_TORCH_CHECK(n_cols >= 0 && n_cols < int64_t{1} << 60, op, ": n_cols must be at least 0 and below 2^60");
  const OnDevice device(x.col);
  Tensor t_crow = torch::stable::new_empty(x.crow, {n_cols + 1});
  const bool has_place = x.n_rows() > 0 && n_cols > 0;  // else there can be no entries
  Tensor t_col = has_place ? torch::stable::new_empty(x.col, {x.nnz()}) : torch::stable::new_zeros(x.col, {x.nnz()});
  auto [sorted, entry] = stable_sort(x.col);
  CsrIndices indices = indices_of(x, n_cols);
  if (!has_place) indices.nnz = 0;
  check_launch(op, launch_transposed(indices, static_cast<const int64_t*>(data_to_read(sorted, "sorted")),
                                     static_cast<const int64_t*>(data_to_read(entry, "entry")),
                                     static_cast<int64_t*>(data_to_fill(t_crow, "offsets")),
                                     static_cast<int64_t*>(data_to_fill(t_col, "rows")), device.stream()));
  return {std::move(t_crow), std::move(t_col), std::move(entry)};
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("csr_aggregate", TORCH_BOX(&dmrec::cuda::csr_aggregate));
  m.impl("_csr_dot", TORCH_BOX(&dmrec::cuda::csr_dot));
  m.impl("_csr_transpose", TORCH_BOX(&dmrec::cuda::csr_transpose));
}

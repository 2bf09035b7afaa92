// csr_aggregate on the CPU: from tensors to the loops of csr_aggregate.h.
#include <tuple>

#include "ops/cpu/csr_aggregate.h"
#include "ops/cpu/dispatch.h"
#include "ops/cpu/huge_pages.h"
#include "ops/csr_aggregate.h"
#include "ops/library.h"

namespace dmrec::cpu {

namespace {

Tensor csr_aggregate(Tensor crow, Tensor col, std::optional<Tensor> values, Tensor dense, std::optional<Tensor> bias,
                     std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>,
                     std::optional<ScalarType> dtype) {
  const char* op = "csr_aggregate";
  const CsrInput input(op, std::move(crow), std::move(col), std::move(values));
  const ScalarType type = checked_result_type(input, dense, dtype);
  const CsrRows x = checked(op, input, dense.size(0));
  if (bias.has_value()) {
    check_bias(*bias, x.n_rows, dense, type);
    bias = bias->dim() == 1 ? torch::stable::contiguous(*bias) : with_adjacent_elements(std::move(*bias));
  }
  dense = with_adjacent_elements(std::move(dense));
  Tensor out = torch::stable::new_empty(dense, {x.n_rows, dense.size(1)}, type);
  prefer_huge_pages(out);
  with_stored_types(dense.scalar_type(), type, [&]<class Stored, class Result>() {
    CsrSum<Stored, Result> job{x,
                               input.values ? static_cast<const Result*>(input.values->const_data_ptr()) : nullptr,
                               rows_in<Stored>(dense),
                               {nullptr, 0},
                               static_cast<Result*>(out.mutable_data_ptr()),
                               dense.size(1),
                               dense.size(0) * dense.size(1) * static_cast<int64_t>(sizeof(Stored)) > beyond_caches};
    if (bias.has_value()) {
      job.bias = {static_cast<const Result*>(bias->const_data_ptr()), bias->dim() == 1 ? 0 : bias->stride(0)};
    }
    job.run();
  });
  return out;
}

Tensor csr_dot(Tensor crow, Tensor col, Tensor rows, Tensor dense) {
  const char* op = "_csr_dot";
  const CsrInput input(op, std::move(crow), std::move(col), std::nullopt);
  check_dot_operands(input, rows, dense);
  const CsrRows x = checked(op, input, dense.size(0));
  rows = with_adjacent_elements(std::move(rows));
  dense = with_adjacent_elements(std::move(dense));
  Tensor out = torch::stable::new_empty(rows, {x.nnz});
  with_stored_types(dense.scalar_type(), rows.scalar_type(), [&]<class Stored, class Result>() {
    CsrDot<Stored, Result>{x, rows_in<Result>(rows), rows_in<Stored>(dense),
                           static_cast<Result*>(out.mutable_data_ptr()), dense.size(1)}
        .run();
  });
  return out;
}

// Counting sort: entries of a column stay in the order of their rows.
std::tuple<Tensor, Tensor, Tensor> csr_transpose(Tensor crow, Tensor col, int64_t n_cols) {
  const char* op = "_csr_transpose";
  const CsrInput input(op, std::move(crow), std::move(col), std::nullopt);
  STD_TORCH_CHECK(n_cols >= 0 && n_cols < int64_t{1} << 60, op, ": n_cols must be at least 0 and below 2^60");
  const CsrRows x = checked(op, input, n_cols);
  Tensor t_crow = torch::stable::new_zeros(input.crow, {n_cols + 1});
  Tensor t_col = torch::stable::new_empty(input.col, {x.nnz});
  Tensor entry = torch::stable::new_empty(input.col, {x.nnz});
  auto* next = static_cast<int64_t*>(t_crow.mutable_data_ptr());
  auto* row = static_cast<int64_t*>(t_col.mutable_data_ptr());
  auto* from = static_cast<int64_t*>(entry.mutable_data_ptr());
  for (int64_t e = 0; e < x.nnz; ++e) ++next[x.col[e]];
  int64_t before = 0;
  for (int64_t c = 0; c <= n_cols; ++c) {
    const int64_t count = next[c];
    next[c] = before;
    before += count;
  }
  for (int64_t b = 0; b < x.n_rows; ++b) {
    for (int64_t e = x.crow[b]; e < x.crow[b + 1]; ++e) {
      const int64_t place = next[x.col[e]]++;
      row[place] = b;
      from[place] = e;
    }
  }
  for (int64_t c = n_cols; c > 0; --c) next[c] = next[c - 1];  // each had moved on to the next column's begin
  next[0] = 0;
  return {std::move(t_crow), std::move(t_col), std::move(entry)};
}

bool csr_is_valid(Tensor crow, Tensor col, int64_t n_cols) {
  const CsrInput input("_csr_is_valid", std::move(crow), std::move(col), std::nullopt);
  const CsrRows x = unchecked(input);
  return offsets_in_range(x) && columns_in_range(x, n_cols) && columns_rise(x);
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("csr_aggregate", TORCH_BOX(&dmrec::cpu::csr_aggregate));
  m.impl("_csr_dot", TORCH_BOX(&dmrec::cpu::csr_dot));
  m.impl("_csr_transpose", TORCH_BOX(&dmrec::cpu::csr_transpose));
  m.impl("_csr_is_valid", TORCH_BOX(&dmrec::cpu::csr_is_valid));
}

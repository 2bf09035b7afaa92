// From tensors to a RowMap: what the CPU files of all row operators share.
#pragma once

#include "ops/cpu/dispatch.h"
#include "ops/cpu/row_map.h"
#include "ops/row_inputs.h"

namespace dmrec::cpu {

template <class Functor, class Stored>
void fill_inputs(const std::vector<Tensor>& tensors, typename RowMap<Functor, Stored>::Input* in) {
  for (int i = 0; i < Functor::inputs; ++i) {
    in[i] = {static_cast<const Stored*>(tensors[i].const_data_ptr()), tensors[i].stride(0)};
  }
}

template <class Functor, class Stored>
void forward_typed(const Functor& functor, const std::vector<Tensor>& rows, Tensor& out, Tensor* saved) {
  using T = typename Element<Stored>::Arithmetic;
  typename RowMap<Functor, Stored>::Forward job{functor,
                                                {},
                                                static_cast<Stored*>(out.mutable_data_ptr()),
                                                nullptr,
                                                saved ? static_cast<T*>(saved->mutable_data_ptr()) : nullptr,
                                                rows[0].size(0),
                                                rows[0].size(1)};
  fill_inputs<Functor, Stored>(rows, job.in);
  job.run();
}

template <class Functor, class Stored>
void backward_typed(const Functor& functor, const std::vector<Tensor>& rows, const Tensor& grad, const Tensor* saved,
                    int64_t needed, const std::vector<Tensor>& gradients) {
  using T = typename Element<Stored>::Arithmetic;
  typename RowMap<Functor, Stored>::Backward job{functor,
                                                 {},
                                                 {static_cast<const Stored*>(grad.const_data_ptr()), grad.stride(0)},
                                                 saved ? static_cast<const T*>(saved->const_data_ptr()) : nullptr,
                                                 {},
                                                 rows[0].size(0),
                                                 rows[0].size(1)};
  fill_inputs<Functor, Stored>(rows, job.in);
  auto next = gradients.begin();
  for (int i = 0; i < Functor::inputs; ++i) {
    if (needed >> i & 1) job.out[i] = static_cast<Stored*>((next++)->mutable_data_ptr());
  }
  job.run();
}

// `rows` have passed check_rows; `saved`, if given, is a (B,) tensor of the arithmetic type to fill
template <class Functor>
Tensor row_forward(const Functor& functor, std::vector<Tensor> rows, Tensor* saved = nullptr) {
  for (Tensor& row : rows) row = with_adjacent_elements(std::move(row));
  Tensor out = torch::stable::new_empty(rows[0], {rows[0].size(0)});
  with_stored_type(rows[0].scalar_type(),
                   [&]<class Stored>() { forward_typed<Functor, Stored>(functor, rows, out, saved); });
  return out;
}

template <class Functor>
std::vector<Tensor> row_backward(const char* op, const Functor& functor, std::vector<Tensor> rows, const Tensor& grad,
                                 const Tensor* saved, int64_t needed) {
  check_row_vector(op, "the gradient", grad, rows[0]);
  if (saved) check_saved(op, *saved, rows[0]);
  std::vector<Tensor> gradients;
  for (int i = 0; i < Functor::inputs; ++i) {
    if (needed >> i & 1) {
      gradients.push_back(torch::stable::new_empty(rows[0], {rows[0].size(0), rows[0].size(1)}));
    }
  }
  if (gradients.empty()) return gradients;
  for (Tensor& row : rows) row = with_adjacent_elements(std::move(row));
  with_stored_type(rows[0].scalar_type(), [&]<class Stored>() {
    backward_typed<Functor, Stored>(functor, rows, grad, saved, needed, gradients);
  });
  return gradients;
}

// The sum in a fixed order, whoever formed the values.
template <class T>
double sum_of(const T* values, int64_t n) {
  constexpr int lanes = 8;
  double sum[lanes] = {};
  for (int64_t i = 0; i < n / lanes * lanes; i += lanes) {
    for (int l = 0; l < lanes; ++l) sum[l] += static_cast<double>(values[i + l]);
  }
  for (int64_t i = n / lanes * lanes; i < n; ++i) sum[i % lanes] += static_cast<double>(values[i]);
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
  }
  return sum[0];
}

// The sum of all rows' values, multiplied by `scale`: (), and behind it the gradients whose bits are set in `needed`.
// `rows` have passed check_rows.
template <class Functor>
std::vector<Tensor> row_reduced(const Functor& functor, std::vector<Tensor> rows, double scale, int64_t needed) {
  for (Tensor& row : rows) row = with_adjacent_elements(std::move(row));
  const int64_t n_rows = rows[0].size(0), width = rows[0].size(1);
  std::vector<Tensor> results{torch::stable::new_empty(rows[0], {})};
  for (int i = 0; i < Functor::inputs; ++i) {
    if (needed >> i & 1) results.push_back(torch::stable::new_empty(rows[0], {n_rows, width}));
  }
  Tensor values = torch::stable::new_empty(rows[0], {n_rows}, arithmetic_type(rows[0].scalar_type()));
  with_stored_type(rows[0].scalar_type(), [&]<class Stored>() {
    using T = typename Element<Stored>::Arithmetic;
    T* const row_values = static_cast<T*>(values.mutable_data_ptr());
    if (results.size() == 1 || width == 0) {
      typename RowMap<Functor, Stored>::Forward job{functor, {}, nullptr, row_values, nullptr, n_rows, width};
      fill_inputs<Functor, Stored>(rows, job.in);
      job.run();
    } else {
      typename RowMap<Functor, Stored>::Both job{functor, {}, static_cast<T>(scale), row_values, {}, n_rows, width};
      fill_inputs<Functor, Stored>(rows, job.in);
      auto next = results.begin() + 1;
      for (int i = 0; i < Functor::inputs; ++i) {
        if (needed >> i & 1) job.out[i] = static_cast<Stored*>((next++)->mutable_data_ptr());
      }
      job.run();
    }
    Element<Stored>::store(static_cast<Stored*>(results[0].mutable_data_ptr()),
                           static_cast<T>(scale * sum_of(row_values, n_rows)));
  });
  return results;
}

}  // namespace dmrec::cpu

// multinomial_terms on the CPU. With logits l = hidden weight^T + bias of a row:
//   S = log sum_i e^{l_i},  T = sum_i x_i l_i;      with g, h their gradients: d / d l_i = g e^{l_i - S} + h x_i
// S is held as the row's maximum and what is above it, and T is summed in double: X S - T would cancel otherwise.
// The stages are those of ops/multinomial_nll.h, with tiles of 16 MiB of logits for usual batches; here is the pass
// over a tile.
#include <cmath>
#include <tuple>

#include "math/online_softmax.h"
#include "ops/cpu/csr_input.h"
#include "ops/cpu/huge_pages.h"
#include "ops/cpu/products.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/target.h"
#include "ops/library.h"
#include "ops/multinomial_nll.h"

namespace dmrec::cpu {
namespace {

constexpr const char* op = "multinomial_nll";

// Maximum and sum of exponentials of a row of logits plus bias.
template <class Product>
struct RowSum {
  using T = typename Element<Product>::Arithmetic;
  static constexpr int lanes = 64 / sizeof(T);

  DMREC_CLONES static MaxAndSum<T> run(const Product* row, const T* bias, int64_t count) {
    T largest[lanes];
    for (int l = 0; l < lanes; ++l) largest[l] = -Float<T>::largest;
    int64_t j = 0;
    for (; j + lanes <= count; j += lanes) {
#pragma omp simd
      for (int l = 0; l < lanes; ++l) {
        const T x = Element<Product>::load(row + j + l) + bias[j + l];
        largest[l] = x > largest[l] ? x : largest[l];
      }
    }
    T max = -Float<T>::largest;
    for (int l = 0; l < lanes; ++l) max = largest[l] > max ? largest[l] : max;
    for (int64_t i = j; i < count; ++i) {
      const T x = Element<Product>::load(row + i) + bias[i];
      max = x > max ? x : max;
    }
    T sum[lanes] = {};
    for (j = 0; j + lanes <= count; j += lanes) {
#pragma omp simd
      for (int l = 0; l < lanes; ++l) sum[l] += bounded_exp(Element<Product>::load(row + j + l) + bias[j + l] - max);
    }
    for (int64_t i = j; i < count; ++i) sum[i - j] += bounded_exp(Element<Product>::load(row + i) + bias[i] - max);
    for (int half = lanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
    }
    return {max, sum[0]};
  }
};

// scale e^{l - S} for a row
template <class Product>
struct RowGradient {
  using T = typename Element<Product>::Arithmetic;

  DMREC_CLONES static void run(const Product* logits, const T* bias, int64_t count, T max, T above, T scale,
                               Product* out) {
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) {
      const T x = Element<Product>::load(logits + j) + bias[j];
      Element<Product>::store(out + j, scale * bounded_exp((x - max) - above));
    }
  }
};

// Adds the sums of the columns [begin, end) of a tile of n_rows x count.
template <class Product>
struct ColumnSums {
  using T = typename Element<Product>::Arithmetic;

  DMREC_CLONES static void run(const Product* tile, int64_t n_rows, int64_t count, int64_t begin, int64_t end, T* sum) {
    for (int64_t j = begin; j < end; ++j) sum[j] = T(0);
    for (int64_t b = 0; b < n_rows; ++b) {
      const Product* row = tile + b * count;
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) sum[j] += Element<Product>::load(row + j);
    }
  }
};

// The device's part of the stages.
template <class Product>
class NllOnCpu {
  using T = typename Element<Product>::Arithmetic;

 public:
  NllOnCpu(const NllProblem& problem, const CsrRows& x)
      : problem_(problem), x_(x), n_rows_(problem.n_rows), next_(x.crow, x.crow + x.n_rows) {}

  int64_t items_per_tile() const {
    constexpr int64_t elements = 4 << 20;
    return std::clamp<int64_t>(elements / std::max<int64_t>(1, n_rows_), 512, 16384);
  }

  Tensor scratch(int64_t elements) const { return cpu::scratch<Product>(problem_.hidden, elements); }
  void large(Tensor& fresh) const { prefer_huge_pages(fresh); }

  void begin_forward(int64_t) {
    sums_.assign(n_rows_, MaxAndSum<T>::empty());
    of_targets_.assign(n_rows_, 0);
  }

  void add_to_sums(const Tensor& tile, int64_t first, int64_t count) {
    const Product* logits = data<Product>(tile);
    over_rows(count, [&](int64_t b) {
      const Product* row = logits + b * count;
      sums_[b] = sums_[b].with(RowSum<Product>::run(row, bias(first), count));
      over_entries(b, first, count, [&](int64_t j, T value) {
        of_targets_[b] += static_cast<double>(value) * (Element<Product>::load(row + j) + bias(first)[j]);
      });
    });
  }

  void finish(const Tensor& terms, const Tensor& log_sums) const {
    for (int64_t b = 0; b < n_rows_; ++b) {
      const T above = sums_[b].log_sum_above_max();
      data<T>(log_sums)[b] = sums_[b].max;
      data<T>(log_sums)[n_rows_ + b] = above;
      data<double>(terms)[b] = static_cast<double>(sums_[b].max) + above;
      data<double>(terms)[n_rows_ + b] = of_targets_[b];
      data<double>(terms)[2 * n_rows_ + b] = total(b);
    }
  }

  void begin_backward(const Tensor& grad, const Tensor& log_sums) {
    grad_ = grad;
    log_sums_ = torch::stable::contiguous(log_sums);
  }

  void gradient(const Tensor& logits, int64_t first, int64_t count, const Tensor& out) {
    const double *of_sum = data<double>(grad_), *of_targets = of_sum + n_rows_;
    const T *max = data<T>(log_sums_), *above = max + n_rows_;
    over_rows(count, [&](int64_t b) {
      Product* to = data<Product>(out) + b * count;
      RowGradient<Product>::run(data<Product>(logits) + b * logits.stride(0), bias(first), count, max[b], above[b],
                                static_cast<T>(of_sum[b]), to);
      const T of_row = static_cast<T>(of_targets[b]);
      over_entries(b, first, count, [&](int64_t j, T value) {
        Element<Product>::store(to + j, Element<Product>::load(to + j) + of_row * value);
      });
    });
  }

  void column_sums(const Tensor& tile, const Tensor& out) const {
    const int64_t count = tile.size(1), grain = std::max<int64_t>(1, 512 / std::max<int64_t>(1, n_rows_));
    torch::stable::parallel_for(0, (count + 63) / 64, grain, [&](int64_t begin, int64_t end) {
      ColumnSums<Product>::run(data<Product>(tile), n_rows_, count, begin * 64, std::min(end * 64, count),
                               data<T>(out));
    });
  }

  void add_product(const Tensor& sum, const Tensor& a, const Tensor& b) const {
    const Tensor part = torch::stable::new_empty(a, {a.size(0), b.size(1)});
    mm_out(part, a, b);
    const Product* from = data<Product>(part);
    T* to = data<T>(sum);
    torch::stable::parallel_for(0, part.numel(), 16384, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] += Element<Product>::load(from + i);
    });
  }

 private:
  template <class U>
  static U* data(const Tensor& tensor) {
    return static_cast<U*>(const_cast<void*>(tensor.const_data_ptr()));
  }
  const T* bias(int64_t first) const { return data<T>(problem_.biases) + first; }

  // The sum of a row's values.
  double total(int64_t b) const {
    if (!problem_.values) return static_cast<double>(x_.crow[b + 1] - x_.crow[b]);
    double sum = 0;
    for (int64_t e = x_.crow[b]; e < x_.crow[b + 1]; ++e) sum += data<T>(*problem_.values)[e];
    return sum;
  }

  template <class Body>
  void over_rows(int64_t count, const Body& body) const {
    const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, count));
    torch::stable::parallel_for(0, n_rows_, grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) body(b);
    });
  }

  // body(column in the tile, value) for the row's entries in items [first, first + count), columns rising
  template <class Body>
  void over_entries(int64_t b, int64_t first, int64_t count, const Body& body) {
    for (int64_t& next = next_[b]; next < x_.crow[b + 1] && x_.col[next] < first + count; ++next) {
      body(x_.col[next] - first, problem_.values ? data<T>(*problem_.values)[next] : T(1));
    }
  }

  const NllProblem& problem_;
  const CsrRows& x_;
  int64_t n_rows_;
  std::vector<int64_t> next_;       // the first of a row's entries that no tile has covered
  std::vector<MaxAndSum<T>> sums_;  // of the forward
  std::vector<double> of_targets_;
  Tensor grad_, log_sums_;  // of the backward
};

// body.template operator()<Product>(): the type that products are formed in
template <class Body>
auto with_product_type(ScalarType product, const Body& body) {
  if (product == ScalarType::Double) return body.template operator()<double>();
  if (product == ScalarType::BFloat16) return body.template operator()<c10::BFloat16>();
  return body.template operator()<float>();
}

std::tuple<Tensor, Tensor, Tensor> multinomial_terms(Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                                     std::optional<Tensor> values, std::optional<Tensor> bias,
                                                     bool bf16, bool save) {
  const CsrInput x(op, std::move(crow), std::move(col), std::move(values));
  check_nll_inputs(hidden, weight, x, bias);
  const CsrRows rows = sorted_rows(op, x, weight.size(0));
  const NllProblem problem(hidden, weight, x, bias, bf16);
  return with_product_type(problem.product, [&]<class Product>() {
    NllOnCpu<Product> device(problem, rows);
    return nll_forward(problem, device, save);
  });
}

std::vector<Tensor> multinomial_terms_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                               std::optional<Tensor> values, std::optional<Tensor> bias, bool bf16,
                                               Tensor log_sums, Tensor logits, int64_t needed) {
  const CsrInput x(op, std::move(crow), std::move(col), std::move(values));
  check_nll_inputs(hidden, weight, x, bias);
  check_nll_gradient(grad, log_sums, logits, hidden, weight, bias, bf16, needed);
  const CsrRows rows = sorted_rows(op, x, weight.size(0));
  const NllProblem problem(hidden, weight, x, bias, bf16);
  return with_product_type(problem.product, [&]<class Product>() {
    NllOnCpu<Product> device(problem, rows);
    return nll_backward(problem, device, grad, log_sums, logits, needed, hidden.scalar_type(), bias);
  });
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("multinomial_terms", TORCH_BOX(&dmrec::cpu::multinomial_terms));
  m.impl("_multinomial_terms_backward", TORCH_BOX(&dmrec::cpu::multinomial_terms_backward));
}

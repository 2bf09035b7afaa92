// multinomial_nll on the CPU. With logits l = hidden weight^T + bias and S = log sum_i e^{l_i} of a row:
//   loss = X S - sum_i x_i l_i,  X = sum_i x_i;      d loss / d l_i = X e^{l_i - S} - x_i
// S is kept as the row's maximum and what is above it, and the loss is summed in double: both would cancel otherwise.
// Items come in tiles: a product through torch, then one pass over the tile. The backward forms the gradient of a
// tile's logits in scratch (from kept logits, or from a product once more) and multiplies it with both factors.
// Scratch: one tile of logits, 16 MiB for usual batches; where products are in another type than the inputs, a tile of
// weights in that type and one of their gradient.
#include <cmath>
#include <tuple>

#include "math/online_softmax.h"
#include "ops/cpu/csr_input.h"
#include "ops/cpu/huge_pages.h"
#include "ops/cpu/products.h"
#include "ops/item_tiles.h"
#include "ops/library.h"
#include "ops/multinomial_nll.h"

namespace dmrec::cpu {
namespace {

constexpr const char* op = "multinomial_nll";

int64_t items_per_tile(int64_t n_rows) {
  constexpr int64_t elements = 4 << 20;
  return std::clamp<int64_t>(elements / std::max<int64_t>(1, n_rows), 512, 16384);
}

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

template <class Product>
class Nll {
  using T = typename Element<Product>::Arithmetic;
  static constexpr ScalarType type = type_of<Product>, arithmetic = type_of<T>;

 public:
  Nll(const Tensor& hidden, const Tensor& weight, const CsrRows& x, const std::optional<Tensor>& values,
      const std::optional<Tensor>& bias)
      : hidden_(in_type(hidden, type)),
        weight_(weight),
        x_(x),
        n_rows_(hidden.size(0)),
        n_items_(weight.size(0)),
        tile_(items_per_tile(n_rows_)) {
    if (values) values_ = torch::stable::contiguous(in_type(*values, arithmetic));
    biases_ = bias ? torch::stable::contiguous(in_type(*bias, arithmetic))
                   : torch::stable::new_zeros(hidden_, {n_items_}, arithmetic);
  }

  std::tuple<Tensor, Tensor, Tensor> forward(bool keep) const {
    Tensor loss = torch::stable::new_zeros(hidden_, {n_rows_}, arithmetic);
    Tensor log_sums = torch::stable::new_empty(hidden_, {2, n_rows_}, arithmetic);
    Tensor logits = torch::stable::new_empty(hidden_, {keep ? n_rows_ : 0, keep ? n_items_ : 0});
    if (keep) prefer_huge_pages(logits);
    std::vector<double> of_targets(n_rows_);
    std::vector<MaxAndSum<T>> sums(n_rows_, MaxAndSum<T>::empty());
    const Tensor scratch = keep ? logits : tile_scratch();
    const int64_t step = keep ? std::max<int64_t>(1, n_items_) : tile_;
    std::vector<int64_t> next(x_.crow, x_.crow + n_rows_);
    over_item_tiles(0, n_items_, step, [&](int64_t first, int64_t count) {
      const Product* tile = product(scratch, first, count);
      over_rows(count, [&](int64_t b) {
        const Product* row = tile + b * count;
        sums[b] = sums[b].with(RowSum<Product>::run(row, bias(first), count));
        over_entries(b, next[b], first, count, [&](int64_t j, T value) {
          of_targets[b] += static_cast<double>(value) * (Element<Product>::load(row + j) + bias(first)[j]);
        });
      });
    });
    for (int64_t b = 0; b < n_rows_; ++b) {
      const T above = sums[b].log_sum_above_max();
      data<T>(log_sums)[b] = sums[b].max;
      data<T>(log_sums)[n_rows_ + b] = above;
      if (x_.crow[b] == x_.crow[b + 1]) continue;  // costs nothing, whatever its logits
      data<T>(loss)[b] = static_cast<T>(total(b) * (static_cast<double>(sums[b].max) + above) - of_targets[b]);
    }
    return {std::move(loss), std::move(log_sums), std::move(logits)};
  }

  std::vector<Tensor> backward(const T* grad, const T* log_sums, const Tensor& logits, int64_t needed,
                               ScalarType hidden_type, const std::optional<Tensor>& given_bias) const {
    const bool of_hidden = needed & 1, of_weight = needed & 2, of_bias = needed & 4, kept = logits.numel() > 0;
    const int64_t width = hidden_.size(1);
    Tensor d_hidden = torch::stable::new_zeros(hidden_, {of_hidden ? n_rows_ : 0, width}, arithmetic);
    Tensor d_weight = torch::stable::new_empty(weight_, {of_weight ? n_items_ : 0, width});
    prefer_huge_pages(d_weight);
    Tensor d_bias = torch::stable::new_empty(hidden_, {of_bias ? n_items_ : 0}, arithmetic);
    const Tensor scratch = tile_scratch();
    auto* gradient = data<Product>(scratch);
    std::vector<int64_t> next(x_.crow, x_.crow + n_rows_);
    over_item_tiles(0, n_items_, tile_, [&](int64_t first, int64_t count) {
      const Tensor weights = in_type(row_range(weight_, first, count), type);
      const Tensor tile = as_matrix(scratch, count);
      if (!kept) mm_out(tile, hidden_, transposed(weights));
      over_rows(count, [&](int64_t b) {
        Product* out = gradient + b * count;
        const Product* row = kept ? static_cast<const Product*>(logits.const_data_ptr()) + b * n_items_ + first : out;
        const T scale = x_.crow[b] == x_.crow[b + 1] ? T(0) : static_cast<T>(grad[b] * total(b));
        RowGradient<Product>::run(row, bias(first), count, log_sums[b], log_sums[n_rows_ + b], scale, out);
        over_entries(b, next[b], first, count, [&](int64_t j, T value) {
          Element<Product>::store(out + j, Element<Product>::load(out + j) - grad[b] * value);
        });
      });
      if (of_bias) {
        torch::stable::parallel_for(0, (count + 63) / 64, std::max<int64_t>(1, 512 / std::max<int64_t>(1, n_rows_)),
                                    [&](int64_t begin, int64_t end) {
                                      ColumnSums<Product>::run(gradient, n_rows_, count, begin * 64,
                                                               std::min(end * 64, count), data<T>(d_bias) + first);
                                    });
      }
      if (of_hidden) add_product(d_hidden, tile, weights);
      if (of_weight) {
        Tensor part = row_range(d_weight, first, count);
        if (part.scalar_type() == type) {
          mm_out(part, transposed(tile), hidden_);
        } else {
          Tensor product = torch::stable::new_empty(hidden_, {count, width});
          mm_out(product, transposed(tile), hidden_);
          torch::stable::copy_(part, product);
        }
      }
    });
    std::vector<Tensor> result;
    if (of_hidden) result.push_back(in_type(d_hidden, hidden_type));
    if (of_weight) result.push_back(d_weight);
    if (of_bias) result.push_back(in_type(d_bias, given_bias->scalar_type()));
    return result;
  }

 private:
  template <class U>
  static U* data(const Tensor& tensor) {
    return static_cast<U*>(const_cast<void*>(tensor.const_data_ptr()));
  }
  const T* bias(int64_t first) const { return data<T>(biases_) + first; }

  double total(int64_t b) const {
    if (!values_) return static_cast<double>(x_.crow[b + 1] - x_.crow[b]);
    double sum = 0;
    for (int64_t e = x_.crow[b]; e < x_.crow[b + 1]; ++e) sum += data<T>(*values_)[e];
    return sum;
  }

  Tensor tile_scratch() const {
    return torch::stable::new_empty(hidden_, {n_rows_ * std::min(tile_, std::max<int64_t>(1, n_items_))});
  }
  Tensor as_matrix(const Tensor& scratch, int64_t count) const {
    Tensor flat = scratch;
    return torch::stable::view(torch::stable::narrow(flat, 0, 0, n_rows_ * count), {n_rows_, count});
  }

  // hidden times the weights of a tile, in scratch; all of them where scratch is the logits themselves
  const Product* product(const Tensor& scratch, int64_t first, int64_t count) const {
    const Tensor out = scratch.dim() == 2 ? scratch : as_matrix(scratch, count);
    mm_out(out, hidden_, transposed(in_type(row_range(weight_, first, count), type)));
    return data<Product>(out);
  }

  // sum += a @ b
  void add_product(const Tensor& sum, const Tensor& a, const Tensor& b) const {
    const Tensor part = torch::stable::new_empty(hidden_, {a.size(0), b.size(1)});
    mm_out(part, a, b);
    const Product* from = data<Product>(part);
    T* to = data<T>(sum);
    torch::stable::parallel_for(0, part.numel(), 16384, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] += Element<Product>::load(from + i);
    });
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
  void over_entries(int64_t b, int64_t& next, int64_t first, int64_t count, const Body& body) const {
    for (; next < x_.crow[b + 1] && x_.col[next] < first + count; ++next) {
      body(x_.col[next] - first, values_ ? data<T>(*values_)[next] : T(1));
    }
  }

  Tensor hidden_;
  const Tensor& weight_;
  const CsrRows& x_;
  int64_t n_rows_, n_items_, tile_;
  std::optional<Tensor> values_;
  Tensor biases_;
};

struct Inputs {
  CsrInput sparse;
  CsrRows x;

  Inputs(const Tensor& hidden, const Tensor& weight, Tensor crow, Tensor col, std::optional<Tensor> values,
         const std::optional<Tensor>& bias)
      : sparse(op, std::move(crow), std::move(col), std::move(values)), x{} {
    check_nll_inputs(hidden, weight, sparse, bias);
    x = sorted_rows(op, sparse, weight.size(0));
  }
};

// body.template operator()<Product>(): the type that products are formed in
template <class Body>
auto with_product_type(ScalarType dtype, bool bf16, const Body& body) {
  if (dtype == ScalarType::Double) return body.template operator()<double>();
  if (bf16) return body.template operator()<c10::BFloat16>();
  return body.template operator()<float>();
}

std::tuple<Tensor, Tensor, Tensor> multinomial_nll(Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                                   std::optional<Tensor> values, std::optional<Tensor> bias, bool bf16,
                                                   bool keep) {
  const Inputs in(hidden, weight, std::move(crow), std::move(col), std::move(values), bias);
  return with_product_type(weight.scalar_type(), bf16, [&]<class Product>() {
    return Nll<Product>(hidden, weight, in.x, in.sparse.values, bias).forward(keep);
  });
}

std::vector<Tensor> multinomial_nll_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                             std::optional<Tensor> values, std::optional<Tensor> bias, bool bf16,
                                             Tensor log_sums, Tensor logits, int64_t needed) {
  const Inputs in(hidden, weight, std::move(crow), std::move(col), std::move(values), bias);
  check_nll_gradient(grad, log_sums, logits, hidden, weight, bias, bf16, needed);
  return with_product_type(weight.scalar_type(), bf16, [&]<class Product>() {
    using T = typename Element<Product>::Arithmetic;
    grad = torch::stable::contiguous(grad);
    log_sums = torch::stable::contiguous(log_sums);
    return Nll<Product>(hidden, weight, in.x, in.sparse.values, bias)
        .backward(static_cast<const T*>(grad.const_data_ptr()), static_cast<const T*>(log_sums.const_data_ptr()),
                  logits, needed, hidden.scalar_type(), bias);
  });
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("multinomial_nll", TORCH_BOX(&dmrec::cpu::multinomial_nll));
  m.impl("_multinomial_nll_backward", TORCH_BOX(&dmrec::cpu::multinomial_nll_backward));
}

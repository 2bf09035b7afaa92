// multinomial_nll on CUDA: products of tiles of items, and the kernels of multinomial_nll.cuh around them.
// Scratch: a tile of logits (16 Mi numbers, more above 4096 rows); where products are in another type than the inputs,
// a tile of weights in that type and one of their gradient.
#include <algorithm>
#include <tuple>

#include "ops/cuda/csr_binding.h"
#include "ops/cuda/products.h"
#include "ops/item_tiles.h"
#include "ops/multinomial_nll.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "multinomial_nll";

// Columns of a tile, in whole chunks.
int64_t items_per_tile(int64_t n_rows) {
  constexpr int64_t elements = 16 << 20;
  return std::clamp<int64_t>(elements / std::max<int64_t>(1, n_rows) / nll_chunk, 1, 16) * nll_chunk;
}

// Sums by row, as NllSums points at them.
struct Sums {
  Tensor max, sum, of_targets;

  Sums(const Tensor& like, int64_t chunks, int64_t n_rows, ScalarType type)
      : max(torch::stable::new_empty(like, {chunks, n_rows}, type)),
        sum(torch::stable::new_empty(like, {chunks, n_rows}, type)),
        of_targets(torch::stable::new_empty(like, {chunks, n_rows}, ScalarType::Double)) {}

  NllSums pointers() const {
    return {data_to_fill(max, "maxima"), data_to_fill(sum, "sums"),
            static_cast<double*>(data_to_fill(of_targets, "sums of targets"))};
  }
};

class Nll {
 public:
  Nll(const Tensor& hidden, const Tensor& weight, const CsrInput& x, const std::optional<Tensor>& bias, bool bf16,
      const OnDevice& device)
      : type_(nll_product_type(weight, bf16)),
        arithmetic_(nll_arithmetic_type(weight)),
        hidden_(in_type(hidden, type_)),
        weight_(weight),
        n_rows_(hidden.size(0)),
        n_items_(weight.size(0)),
        tile_(items_per_tile(n_rows_)),
        device_(device) {
    biases_ = bias ? torch::stable::contiguous(in_type(*bias, arithmetic_))
                   : torch::stable::new_zeros(hidden_, {n_items_}, arithmetic_);
    targets_.indices = indices_of(x, n_items_);
    if (x.values) {
      values_ = torch::stable::contiguous(in_type(*x.values, arithmetic_));
      targets_.values = data_to_read(*values_, "values");
    }
    data_to_read(biases_, "bias");
  }

  std::tuple<Tensor, Tensor, Tensor> forward(bool keep) const {
    Tensor loss = torch::stable::new_zeros(hidden_, {n_rows_}, arithmetic_);
    Tensor log_sums = torch::stable::new_zeros(hidden_, {2, n_rows_}, arithmetic_);
    Tensor logits = torch::stable::new_empty(hidden_, {keep ? n_rows_ : 0, keep ? n_items_ : 0});
    if (n_rows_ == 0 || n_items_ == 0) return {std::move(loss), std::move(log_sums), std::move(logits)};
    const int64_t step = keep ? n_items_ : std::min(tile_, n_items_);
    const Sums parts(hidden_, (step + nll_chunk - 1) / nll_chunk, n_rows_, arithmetic_);
    const Sums state(hidden_, 1, n_rows_, arithmetic_);
    const NllSums to_parts = parts.pointers(), to_state = state.pointers();
    const Tensor scratch = keep ? logits : tile_scratch();
    over_item_tiles(0, n_items_, step, [&](int64_t first, int64_t count) {
      const Tensor tile = keep ? logits : as_matrix(scratch, count);
      mm_out(tile, hidden_, transposed(weights_in_type(first, count)));
      check_launch(op, launch_nll_sums(type_of(type_), filled(tile, first, count), targets_, to_parts, to_state,
                                       device_.stream()));
    });
    check_launch(op, launch_nll_losses(type_of(type_), targets_, to_state, data_to_fill(loss, "loss"),
                                       data_to_fill(log_sums, "log sums"), device_.stream()));
    return {std::move(loss), std::move(log_sums), std::move(logits)};
  }

  std::vector<Tensor> backward(const Tensor& grad, const Tensor& log_sums, const Tensor& logits, int64_t needed,
                               ScalarType hidden_type, const std::optional<Tensor>& given_bias) const {
    const bool of_hidden = needed & 1, of_weight = needed & 2, of_bias = needed & 4, kept = logits.numel() > 0;
    const int64_t width = hidden_.size(1);
    Tensor d_hidden = torch::stable::new_zeros(hidden_, {of_hidden ? n_rows_ : 0, width}, arithmetic_);
    Tensor d_weight = torch::stable::new_empty(weight_, {of_weight ? n_items_ : 0, width});
    Tensor d_bias = torch::stable::new_zeros(hidden_, {of_bias ? n_items_ : 0}, arithmetic_);
    if (n_rows_ == 0) {
      torch::stable::zero_(d_weight);
    } else if (n_items_ > 0) {
      const Tensor scales = torch::stable::new_empty(hidden_, {n_rows_}, arithmetic_);
      const NllGradient of{data_to_read(grad, "grad"), grad.stride(0), data_to_read(log_sums, "log sums"),
                           data_to_fill(scales, "scales")};
      data_to_fill(d_bias, "gradient of bias");
      check_launch(op, launch_nll_scales(type_of(type_), targets_, of, device_.stream()));
      const Tensor scratch = tile_scratch();
      over_item_tiles(0, n_items_, tile_, [&](int64_t first, int64_t count) {
        const Tensor weights = weights_in_type(first, count), tile = as_matrix(scratch, count);
        if (!kept) mm_out(tile, hidden_, transposed(weights));
        tile_gradient(kept ? logits : tile, kept, tile, first, count, of);
        if (of_bias) {
          void* sums = const_cast<void*>(row_range(d_bias, first, count).const_data_ptr());
          check_launch(op, launch_nll_column_sums(type_of(type_), tile.const_data_ptr(), n_rows_, count, sums,
                                                  device_.stream()));
        }
        if (of_hidden) add_product(d_hidden, tile, weights);
        if (of_weight) {
          Tensor part = row_range(d_weight, first, count);
          if (part.scalar_type() == type_) {
            mm_out(part, transposed(tile), hidden_);
          } else {
            Tensor product = torch::stable::new_empty(hidden_, {count, width});
            mm_out(product, transposed(tile), hidden_);
            torch::stable::copy_(part, product);
          }
        }
      });
    }
    std::vector<Tensor> result;
    if (of_hidden) result.push_back(in_type(d_hidden, hidden_type));
    if (of_weight) result.push_back(d_weight);
    if (of_bias) result.push_back(in_type(d_bias, given_bias->scalar_type()));
    return result;
  }

 private:
  Tensor weights_in_type(int64_t first, int64_t count) const {
    return in_type(row_range(weight_, first, count), type_);
  }
  Tensor tile_scratch() const { return torch::stable::new_empty(hidden_, {n_rows_ * std::min(tile_, n_items_)}); }
  Tensor as_matrix(const Tensor& scratch, int64_t count) const {
    Tensor flat = scratch;
    return torch::stable::view(torch::stable::narrow(flat, 0, 0, n_rows_ * count), {n_rows_, count});
  }
  const void* biases_from(int64_t first) const {
    return static_cast<const char*>(biases_.const_data_ptr()) + first * biases_.element_size();
  }

  // The logits of a tile that a product has just filled.
  NllTile filled(const Tensor& tile, int64_t first, int64_t count) const {
    const void* data = data_to_fill(tile, "logits");
    was_filled(tile);
    const void* bias = biases_from(first);
    return {data, tile.stride(0), bias, first, count, rows_aligned(tile), is_aligned(bias)};
  }

  // Into `tile`, from the logits of all items where they were kept, else from those in `tile` itself.
  void tile_gradient(const Tensor& logits, bool kept, const Tensor& tile, int64_t first, int64_t count,
                     const NllGradient& of) const {
    Tensor of_tile = logits;
    if (kept) of_tile = torch::stable::narrow(of_tile, 1, first, count);
    const NllTile from = filled(of_tile, first, count);
    void* to = data_to_fill(tile, "gradient of logits");
    if (!kept) was_filled(tile);
    check_launch(op, launch_nll_gradient(type_of(type_), from, targets_, of, to, rows_aligned(tile), device_.stream()));
  }

  // sum += a @ b
  void add_product(const Tensor& sum, const Tensor& a, const Tensor& b) const {
    const Tensor part = torch::stable::new_empty(hidden_, {a.size(0), b.size(1)}, arithmetic_);
    if (part.numel() == 0) return;
    type_ == ScalarType::BFloat16 ? mm_of_bf16_out(part, a, b) : mm_out(part, a, b);
    void* to = data_to_fill(sum, "gradient of hidden");
    was_filled(sum);
    const void* from = data_to_read(part, "part");
    check_launch(op, launch_nll_add(type_of(arithmetic_), to, from, part.numel(), device_.stream()));
  }

  ScalarType type_, arithmetic_;
  Tensor hidden_;
  const Tensor& weight_;
  int64_t n_rows_, n_items_, tile_;
  const OnDevice& device_;
  std::optional<Tensor> values_;
  Tensor biases_;
  NllTargets targets_{};
};

std::tuple<Tensor, Tensor, Tensor> multinomial_nll(Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                                   std::optional<Tensor> values, std::optional<Tensor> bias, bool bf16,
                                                   bool keep) {
  const CsrInput x(op, std::move(crow), std::move(col), std::move(values));
  check_nll_inputs(hidden, weight, x, bias);
  const OnDevice device(hidden);
  return Nll(hidden, weight, x, bias, bf16, device).forward(keep);
}

std::vector<Tensor> multinomial_nll_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                             std::optional<Tensor> values, std::optional<Tensor> bias, bool bf16,
                                             Tensor log_sums, Tensor logits, int64_t needed) {
  const CsrInput x(op, std::move(crow), std::move(col), std::move(values));
  check_nll_inputs(hidden, weight, x, bias);
  check_nll_gradient(grad, log_sums, logits, hidden, weight, bias, bf16, needed);
  const OnDevice device(hidden);
  return Nll(hidden, weight, x, bias, bf16, device)
      .backward(grad, torch::stable::contiguous(log_sums), logits, needed, hidden.scalar_type(), bias);
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("multinomial_nll", TORCH_BOX(&dmrec::cuda::multinomial_nll));
  m.impl("_multinomial_nll_backward", TORCH_BOX(&dmrec::cuda::multinomial_nll_backward));
}

// Checks and stages of multinomial_terms, once for all devices.
// Items come in tiles: a product through torch, then one pass over the tile's logits, which is the device's part. The
// forward may save the logits of all items; they are then one tile. The backward forms the gradient of a tile's logits
// in scratch (from saved logits, or from a product once more) and multiplies it with both factors.
// Scratch: one tile of logits; where products are in another type than the inputs, a tile of weights in that type and
// one of their gradient.
#pragma once

#include <algorithm>
#include <limits>
#include <tuple>

#include "ops/aten_calls.h"
#include "ops/csr_input.h"
#include "ops/item_tiles.h"

namespace dmrec {

// The type that products are formed in, and that of sums.
inline ScalarType nll_product_type(const Tensor& weight, bool bf16) {
  if (weight.scalar_type() == ScalarType::Double) return ScalarType::Double;
  return bf16 ? ScalarType::BFloat16 : ScalarType::Float;
}
inline ScalarType nll_arithmetic_type(const Tensor& weight) {
  return weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_nll_inputs(const Tensor& hidden, const Tensor& weight, const CsrInput& x,
                             const std::optional<Tensor>& bias) {
  const char* op = "multinomial_nll";
  check_rows(op, {hidden});
  check_rows(op, {weight});
  STD_TORCH_CHECK(hidden.device() == weight.device() && hidden.device() == x.col.device(), op,
                  ": all inputs must be on one device");
  STD_TORCH_CHECK(hidden.size(1) == weight.size(1), op, ": weight must have the width of hidden");
  STD_TORCH_CHECK(x.n_rows() == hidden.size(0), op, ": x must have a row per row of hidden");
  if (x.values) check_rows(op, {torch::stable::unsqueeze(*x.values, 0)});
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0), op, ": bias must be (N,)");
    STD_TORCH_CHECK(bias->device() == hidden.device(), op, ": all inputs must be on one device");
    check_rows(op, {torch::stable::unsqueeze(*bias, 0)});
  }
}

inline void check_nll_gradient(const Tensor& grad, const Tensor& log_sums, const Tensor& logits, const Tensor& hidden,
                               const Tensor& weight, const std::optional<Tensor>& bias, bool bf16, int64_t needed) {
  const char* op = "multinomial_nll";
  STD_TORCH_CHECK((needed & 4) == 0 || bias.has_value(), op, ": there is no bias to have a gradient");
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) >= 2 && grad.size(1) == hidden.size(0) && log_sums.dim() == 2 &&
                      log_sums.size(0) == 2 && log_sums.size(1) == hidden.size(0),
                  op, ": grad and log_sums must have two values per row");
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Double && grad.device() == hidden.device(), op,
                  ": grad must be float64");
  STD_TORCH_CHECK(log_sums.scalar_type() == nll_arithmetic_type(weight) && log_sums.device() == hidden.device(), op,
                  ": log_sums must be those of the forward");
  STD_TORCH_CHECK(logits.numel() == 0 ||
                      (logits.dim() == 2 && logits.size(0) == hidden.size(0) && logits.size(1) == weight.size(0) &&
                       logits.is_contiguous() && logits.device() == hidden.device() &&
                       logits.scalar_type() == nll_product_type(weight, bf16)),
                  op, ": logits must be those of the forward");
}

// The arguments as both passes use them: factors in the type of products, the rest in that of sums.
struct NllProblem {
  ScalarType product, arithmetic;
  Tensor hidden;  // (B, H)
  Tensor weight;  // (N, H), in its own type: tiles of it are converted
  int64_t n_rows, n_items;
  std::optional<Tensor> values;  // (nnz,), contiguous
  Tensor biases;                 // (N,), contiguous

  NllProblem(const Tensor& given_hidden, const Tensor& given_weight, const CsrInput& x,
             const std::optional<Tensor>& bias, bool bf16)
      : product(nll_product_type(given_weight, bf16)),
        arithmetic(nll_arithmetic_type(given_weight)),
        hidden(in_type(given_hidden, product)),
        weight(given_weight),
        n_rows(hidden.size(0)),
        n_items(weight.size(0)) {
    if (x.values) values = torch::stable::contiguous(in_type(*x.values, arithmetic));
    biases = bias ? torch::stable::contiguous(in_type(*bias, arithmetic))
                  : torch::stable::new_zeros(hidden, {n_items}, arithmetic);
  }

  bool is_empty() const { return n_rows == 0 || n_items == 0; }
  Tensor weights(int64_t first, int64_t count) const { return in_type(row_range(weight, first, count), product); }
  Tensor as_matrix(Tensor scratch, int64_t count) const {
    return torch::stable::view(torch::stable::narrow(scratch, 0, 0, n_rows * count), {n_rows, count});
  }
};

// What a device offers to the stages below:
//   items_per_tile()
//   scratch(elements)                     for the logits of a tile
//   large(tensor)                         for a large result before anything is written to it
//   begin_forward(step)                   tiles of at most `step` items follow, in order
//   add_to_sums(logits, first, count)     of a tile: (B, count) products, without the biases, of items from `first` on
//   finish(terms, log_sums)               from those sums, and the sums of x
//   begin_backward(grad, log_sums)        grad (2 or more, B) in double, contiguous
//   gradient(logits, first, count, out)   of a tile; `out` is contiguous and may be the logits
//   column_sums(tile, out)
//   add_product(sum, a, b)                sum += a @ b, sum in the arithmetic type

// The terms, (2, B) log sums and the logits, which have no elements unless they are saved.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> nll_forward(const NllProblem& of, Device& device, bool save) {
  Tensor terms = torch::stable::new_zeros(of.hidden, {3, of.n_rows}, ScalarType::Double);
  Tensor log_sums = torch::stable::new_zeros(of.hidden, {2, of.n_rows}, of.arithmetic);
  Tensor logits = torch::stable::new_empty(of.hidden, {save ? of.n_rows : 0, save ? of.n_items : 0});
  if (of.is_empty()) {  // the sum of no exponentials is 0
    Tensor of_nothing = row_range(terms, 0, 1);
    torch::stable::fill_(of_nothing, -std::numeric_limits<double>::infinity());
    return {std::move(terms), std::move(log_sums), std::move(logits)};
  }
  const int64_t step = save ? of.n_items : std::min(device.items_per_tile(), of.n_items);
  if (save) device.large(logits);
  device.begin_forward(step);
  const Tensor scratch = save ? logits : device.scratch(of.n_rows * step);
  over_item_tiles(0, of.n_items, step, [&](int64_t first, int64_t count) {
    const Tensor tile = save ? logits : of.as_matrix(scratch, count);
    mm_out(tile, of.hidden, transposed(of.weights(first, count)));
    device.add_to_sums(tile, first, count);
  });
  device.finish(terms, log_sums);
  return {std::move(terms), std::move(log_sums), std::move(logits)};
}

// The gradients whose bits are set in `needed`, in the types of what they belong to.
template <class Device>
std::vector<Tensor> nll_backward(const NllProblem& of, Device& device, const Tensor& grad, const Tensor& log_sums,
                                 const Tensor& logits, int64_t needed, ScalarType hidden_type,
                                 const std::optional<Tensor>& given_bias) {
  const bool of_hidden = needed & 1, of_weight = needed & 2, of_bias = needed & 4, saved = logits.numel() > 0;
  const int64_t width = of.hidden.size(1);
  Tensor d_hidden = torch::stable::new_zeros(of.hidden, {of_hidden ? of.n_rows : 0, width}, of.arithmetic);
  Tensor d_weight = torch::stable::new_empty(of.weight, {of_weight ? of.n_items : 0, width});
  Tensor d_bias = torch::stable::new_empty(of.hidden, {of_bias ? of.n_items : 0}, of.arithmetic);
  if (of.is_empty()) {
    torch::stable::zero_(d_weight);
    torch::stable::zero_(d_bias);
  } else {
    device.large(d_weight);
    device.begin_backward(torch::stable::contiguous(grad), log_sums);
    const int64_t step = std::min(device.items_per_tile(), of.n_items);
    const Tensor scratch = device.scratch(of.n_rows * step);
    over_item_tiles(0, of.n_items, step, [&](int64_t first, int64_t count) {
      const Tensor weights = of.weights(first, count), tile = of.as_matrix(scratch, count);
      if (saved) {
        Tensor whole = logits;
        device.gradient(torch::stable::narrow(whole, 1, first, count), first, count, tile);
      } else {
        mm_out(tile, of.hidden, transposed(weights));
        device.gradient(tile, first, count, tile);
      }
      if (of_bias) device.column_sums(tile, row_range(d_bias, first, count));
      if (of_hidden) device.add_product(d_hidden, tile, weights);
      if (of_weight) {
        Tensor part = row_range(d_weight, first, count);
        if (part.scalar_type() == of.product) {
          mm_out(part, transposed(tile), of.hidden);
        } else {
          Tensor product = torch::stable::new_empty(of.hidden, {count, width});
          mm_out(product, transposed(tile), of.hidden);
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

}  // namespace dmrec

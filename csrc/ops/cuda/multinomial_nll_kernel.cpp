// multinomial_terms on CUDA: the stages of ops/multinomial_nll.h, with the kernels of multinomial_nll.cuh for the pass
// over a tile. Tiles hold 16 Mi logits, more above 4096 rows.
#include <algorithm>
#include <tuple>

#include "ops/cuda/csr_binding.h"
#include "ops/cuda/multinomial_nll_launch.h"
#include "ops/cuda/products.h"
#include "ops/multinomial_nll.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "multinomial_nll";

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

// The device's part of the stages.
class NllOnCuda {
 public:
  NllOnCuda(const NllProblem& problem, const CsrInput& x, const OnDevice& device)
      : problem_(problem), device_(device), product_(type_of(problem.product)) {
    targets_.indices = indices_of(x, problem.n_items);
    if (problem.values) targets_.values = data_to_read(*problem.values, "values");
    data_to_read(problem.biases, "bias");
  }

  // In whole chunks.
  int64_t items_per_tile() const {
    constexpr int64_t elements = 16 << 20;
    return std::clamp<int64_t>(elements / std::max<int64_t>(1, problem_.n_rows) / nll_chunk, 1, 16) * nll_chunk;
  }

  Tensor scratch(int64_t elements) const { return torch::stable::new_empty(problem_.hidden, {elements}); }
  void large(Tensor&) const {}

  void begin_forward(int64_t step) {
    parts_.emplace(problem_.hidden, (step + nll_chunk - 1) / nll_chunk, problem_.n_rows, problem_.arithmetic);
    state_.emplace(problem_.hidden, 1, problem_.n_rows, problem_.arithmetic);
    to_parts_ = parts_->pointers();
    to_state_ = state_->pointers();
  }

  void add_to_sums(const Tensor& tile, int64_t first, int64_t count) const {
    check_launch(
        op, launch_nll_sums(product_, filled(tile, first, count), targets_, to_parts_, to_state_, device_.stream()));
  }

  void finish(const Tensor& terms, const Tensor& log_sums) const {
    check_launch(op, launch_nll_terms(product_, targets_, to_state_, static_cast<double*>(data_to_fill(terms, "terms")),
                                      data_to_fill(log_sums, "log sums"), device_.stream()));
  }

  void begin_backward(const Tensor& grad, const Tensor& log_sums) {
    grad_ = grad;
    log_sums_ = torch::stable::contiguous(log_sums);
    of_ = {static_cast<const double*>(data_to_read(grad_, "grad")), data_to_read(log_sums_, "log sums")};
  }

  void gradient(const Tensor& logits, int64_t first, int64_t count, const Tensor& out) const {
    const NllTile from = filled(logits, first, count);
    void* to = data_to_fill(out, "gradient of logits");
    if (out.const_data_ptr() == logits.const_data_ptr()) was_filled(out);
    check_launch(op, launch_nll_gradient(product_, from, targets_, of_, to, rows_aligned(out), device_.stream()));
  }

  void column_sums(const Tensor& tile, const Tensor& out) const {
    check_launch(op, launch_nll_column_sums(product_, tile.const_data_ptr(), problem_.n_rows, tile.size(1),
                                            data_to_fill(out, "gradient of bias"), device_.stream()));
  }

  void add_product(const Tensor& sum, const Tensor& a, const Tensor& b) const {
    const Tensor part = torch::stable::new_empty(a, {a.size(0), b.size(1)}, problem_.arithmetic);
    if (part.numel() == 0) return;
    problem_.product == ScalarType::BFloat16 ? mm_of_bf16_out(part, a, b) : mm_out(part, a, b);
    void* to = data_to_fill(sum, "gradient of hidden");
    was_filled(sum);
    const void* from = data_to_read(part, "part");
    check_launch(op, launch_nll_add(type_of(problem_.arithmetic), to, from, part.numel(), device_.stream()));
  }

 private:
  // The logits of a tile that a product has just filled.
  NllTile filled(const Tensor& tile, int64_t first, int64_t count) const {
    const void* data = data_to_fill(tile, "logits");
    was_filled(tile);
    const auto* bias =
        static_cast<const char*>(problem_.biases.const_data_ptr()) + first * problem_.biases.element_size();
    return {data, tile.stride(0), bias, first, count, rows_aligned(tile), is_aligned(bias)};
  }

  const NllProblem& problem_;
  const OnDevice& device_;
  Type product_;
  NllTargets targets_{};
  std::optional<Sums> parts_, state_;  // of the forward
  NllSums to_parts_{}, to_state_{};
  Tensor grad_, log_sums_;  // of the backward
  NllGradient of_{};
};

std::tuple<Tensor, Tensor, Tensor> multinomial_terms(Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                                     std::optional<Tensor> values, std::optional<Tensor> bias,
                                                     bool bf16, bool save) {
  const CsrInput x(op, std::move(crow), std::move(col), std::move(values));
  check_nll_inputs(hidden, weight, x, bias);
  const OnDevice guard(hidden);
  const NllProblem problem(hidden, weight, x, bias, bf16);
  NllOnCuda device(problem, x, guard);
  return nll_forward(problem, device, save);
}

std::vector<Tensor> multinomial_terms_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor crow, Tensor col,
                                               std::optional<Tensor> values, std::optional<Tensor> bias, bool bf16,
                                               Tensor log_sums, Tensor logits, int64_t needed) {
  const CsrInput x(op, std::move(crow), std::move(col), std::move(values));
  check_nll_inputs(hidden, weight, x, bias);
  check_nll_gradient(grad, log_sums, logits, hidden, weight, bias, bf16, needed);
  const OnDevice guard(hidden);
  const NllProblem problem(hidden, weight, x, bias, bf16);
  NllOnCuda device(problem, x, guard);
  return nll_backward(problem, device, grad, log_sums, logits, needed, hidden.scalar_type(), bias);
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("multinomial_terms", TORCH_BOX(&dmrec::cuda::multinomial_terms));
  m.impl("_multinomial_terms_backward", TORCH_BOX(&dmrec::cuda::multinomial_terms_backward));
}

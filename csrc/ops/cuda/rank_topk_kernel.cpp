// rank_topk on CUDA: products of tiles of items, and the kernels of rank_topk.cuh around them.
// Scratch: a tile of products (16 Mi numbers at most; with bfloat16 or 16-bit inputs as many items, converted), 16 k
// bytes a user and part, one number per item.
#include <algorithm>
#include <limits>
#include <tuple>

#include "ops/cuda/csr_binding.h"
#include "ops/cuda/products.h"
#include "ops/cuda/rank_topk_launch.h"
#include "ops/item_tiles.h"
#include "ops/rank_topk.h"

namespace dmrec::cuda {
namespace {

constexpr const char* op = "rank_topk";
constexpr int64_t most_users_at_once = 2048, most_products = 16 << 20, most_parts = 16, enough_blocks = 512;

// Columns of a tile, in whole chunks.
int64_t items_per_tile(int64_t n_users) {
  return std::clamp<int64_t>(most_products / n_users / rank_chunk, 1, 64) * rank_chunk;
}

// `items` have adjacent elements, `bias` is contiguous; at least one item
PreparedItems prepare(const Tensor& items, const std::optional<Tensor>& bias, bool copy, const OnDevice& device) {
  const int64_t n_items = items.size(0), parts = std::clamp<int64_t>(n_items / 16, 1, 1024);
  PreparedItems result{torch::stable::new_empty(items, {n_items}, arithmetic_type(items.scalar_type())),
                       torch::stable::new_empty(items, {2, parts}, ScalarType::Double),
                       copy ? torch::stable::contiguous(in_type(items, ScalarType::BFloat16))
                            : torch::stable::new_empty(items, {0, items.size(1)}, ScalarType::BFloat16)};
  const RankVectors vectors{data_to_read(items, "items"), items.stride(0), items.size(1)};
  const void* biases = bias ? data_to_read(*bias, "bias") : nullptr;
  check_launch(op, launch_item_norms(type_of(items.scalar_type()), vectors, biases, n_items,
                                     data_to_fill(result.filter_bias, "filter bias"),
                                     static_cast<double*>(data_to_fill(result.maxima, "maxima")),
                                     static_cast<int>(parts), device.stream()));
  return result;
}

std::tuple<Tensor, Tensor, Tensor> prepare_items(Tensor items, std::optional<Tensor> bias, bool bf16) {
  check_items(op, items, bias);
  STD_TORCH_CHECK(items.size(0) > 0, op, ": there must be items to prepare");
  if (bias) bias = torch::stable::contiguous(*bias);
  items = with_adjacent_elements(std::move(items));
  const OnDevice device(items);
  PreparedItems made = prepare(items, bias, wants_copy(items, bf16), device);
  return {std::move(made.filter_bias), std::move(made.maxima), std::move(made.in_bf16)};
}

class Ranking {
 public:
  Ranking(const Tensor& query, const Tensor& items, const std::optional<Tensor>& bias, const PreparedItems& prepared,
          int64_t k, bool bf16, const OnDevice& device)
      : query_(query),
        items_(items),
        factors_(prepared.in_bf16.size(0) > 0 ? prepared.in_bf16 : items),
        bf16_(bf16 && query.scalar_type() != ScalarType::Double),
        device_(device) {
    const ScalarType arithmetic = arithmetic_type(query.scalar_type());
    const int64_t n_users = std::min(query.size(0), most_users_at_once), n_items = items.size(0);
    const int64_t chunks = (n_items + rank_chunk - 1) / rank_chunk;
    job_.type = type_of(query.scalar_type());
    job_.items = {data_to_read(items, "items"), items.stride(0), items.size(1)};
    job_.bias = bias ? data_to_read(*bias, "bias") : nullptr;
    job_.k = k;
    job_.parts = static_cast<int>(std::clamp<int64_t>(std::min(enough_blocks / n_users, chunks), 1, most_parts));
    job_.bound.n_maxima = static_cast<int>(prepared.maxima.size(1));
    margins_ = torch::stable::new_empty(query, {n_users}, ScalarType::Double);
    best_scores_ = torch::stable::new_empty(query, {job_.parts, n_users, k}, ScalarType::Double);
    best_ids_ = torch::stable::new_empty(query, {job_.parts, n_users, k}, ScalarType::Long);
    products_ = torch::stable::new_empty(query, {n_users * std::min(items_per_tile(n_users), n_items)}, arithmetic);
    job_.bound.filter_bias = data_to_read(prepared.filter_bias, "filter bias");
    job_.bound.maxima = static_cast<const double*>(data_to_read(prepared.maxima, "maxima"));
  }

  // Users [first, first + count)
  void rank(int64_t first, int64_t count, const std::optional<CsrInput>& exclude, const Tensor& scores,
            const Tensor& ids) {
    const Tensor users = row_range(query_, first, count);
    job_.users = {data_to_read(users, "query"), users.stride(0), users.size(1)};
    job_.n_users = count;
    if (exclude) {
      job_.exclude = indices_of(*exclude, items_.size(0));
      job_.exclude.crow += first;
      job_.exclude.n_rows = count;
    }
    job_.bound.margins = static_cast<double*>(data_to_fill(margins_, "margins"));
    job_.scores = static_cast<double*>(data_to_fill(best_scores_, "best scores"));
    job_.ids = static_cast<int64_t*>(data_to_fill(best_ids_, "best ids"));
    check_launch(op, launch_user_margins(job_.type, job_.users, count, job_.bound, bf16_, device_.stream()));
    const ScalarType type = bf16_ ? ScalarType::BFloat16 : arithmetic_type(query_.scalar_type());
    const Tensor factors = in_type(users, type);
    over_item_tiles(0, items_.size(0), items_per_tile(count), [&](int64_t from, int64_t n) {
      Tensor flat = products_;
      const Tensor tile = torch::stable::view(torch::stable::narrow(flat, 0, 0, count * n), {count, n});
      const Tensor others = transposed(in_type(row_range(factors_, from, n), type));
      bf16_ ? mm_of_bf16_out(tile, factors, others) : mm_out(tile, factors, others);
      const void* products = data_to_read(tile, "products");
      was_filled(tile);
      check_launch(op, launch_select_tile(job_, products, from, n, rows_aligned(tile), device_.stream()));
    });
    check_launch(op, launch_finish_ranking(
                         job_, static_cast<double*>(data_to_fill(row_range(scores, first, count), "scores")),
                         static_cast<int64_t*>(data_to_fill(row_range(ids, first, count), "ids")), device_.stream()));
  }

 private:
  Tensor query_, items_, factors_;
  bool bf16_;
  const OnDevice& device_;
  RankJob job_{};
  Tensor margins_, best_scores_, best_ids_, products_;
};

std::tuple<Tensor, Tensor> rank_topk(Tensor query, Tensor items, int64_t k, std::optional<Tensor> bias,
                                     std::optional<Tensor> exclude_crow, std::optional<Tensor> exclude_col, bool bf16,
                                     std::optional<Tensor> filter_bias, std::optional<Tensor> maxima,
                                     std::optional<Tensor> in_bf16, std::optional<Tensor> at_least) {
  check_ranking_inputs(query, items, k, bias, exclude_crow, exclude_col, at_least);
  STD_TORCH_CHECK(k <= most_ranked, op, ": k must be at most ", most_ranked, " on CUDA");
  if (bias) bias = torch::stable::contiguous(*bias);
  std::optional<CsrInput> exclude;
  if (exclude_crow) {
    exclude.emplace(op, std::move(*exclude_crow), std::move(*exclude_col), std::nullopt);
    STD_TORCH_CHECK(exclude->n_rows() == query.size(0), op, ": exclude must have a row per query");
  }
  const OnDevice device(query);
  query = with_adjacent_elements(std::move(query));
  items = with_adjacent_elements(std::move(items));
  Tensor scores = torch::stable::new_empty(query, {query.size(0), k}, ScalarType::Double);
  Tensor ids = torch::stable::new_empty(query, {query.size(0), k}, ScalarType::Long);
  if (query.size(0) == 0) return {std::move(scores), std::move(ids)};
  if (items.size(0) == 0) {
    torch::stable::fill_(scores, -std::numeric_limits<double>::infinity());
    torch::stable::fill_(ids, -1);
    return {std::move(scores), std::move(ids)};
  }
  const auto given = prepared_items(items, bf16, std::move(filter_bias), std::move(maxima), std::move(in_bf16));
  const PreparedItems prepared = given ? *given : prepare(items, bias, false, device);
  Ranking ranking(query, items, bias, prepared, k, bf16, device);
  for (int64_t first = 0; first < query.size(0); first += most_users_at_once) {
    ranking.rank(first, std::min(most_users_at_once, query.size(0) - first), exclude, scores, ids);
  }
  return {std::move(scores), std::move(ids)};
}

}  // namespace
}  // namespace dmrec::cuda

DMREC_CUDA_KERNELS(m) {
  m.impl("rank_topk", TORCH_BOX(&dmrec::cuda::rank_topk));
  m.impl("_prepare_items", TORCH_BOX(&dmrec::cuda::prepare_items));
}

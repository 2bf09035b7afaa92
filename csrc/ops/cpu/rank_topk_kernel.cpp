// rank_topk on the CPU. The product of a block of users with a tile of items, through torch's matrix product, is a
// filter: its bits depend on shapes and threads, its error does not pass a bound that is known beforehand. What may be
// among the first k is scored again: in double, in one fixed order. Those scores, and so the ranking, are the same for
// any tiles, threads and batches, with products of any precision.
//
// Tasks are blocks of users x ranges of items, as many as threads; each has its own candidates, merged by their exact
// scores. Scratch per task: one tile of products, 2 MiB at most and wider for few users, and capacity(k) candidates a
// user.
//
// For one query or two of items that are not prepared there is no filter: it would first have to read all items for
// their norms, which costs as much as to score them. Where they are prepared, so few are multiplied here: torch's
// product takes as long for the call as for a few thousand items.
//
// Items and users that the bound (math/product_bound.h) does not cover, NaN and infinity among them, take no part in
// the filter: they are scored exactly, one by one.
#include <cmath>
#include <functional>
#include <memory>
#include <tuple>

#include "math/product_bound.h"
#include "ops/cpu/csr_input.h"
#include "ops/cpu/dispatch.h"
#include "ops/cpu/dot.h"
#include "ops/cpu/products.h"
#include "ops/cpu/rank_topk_candidates.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/target.h"
#include "ops/item_tiles.h"
#include "ops/library.h"
#include "ops/rank_topk.h"

namespace dmrec::cpu {
namespace {

constexpr const char* op = "rank_topk";
constexpr int64_t users_per_block = 512, items_per_tile = 1024, widest_tile = 65536, elements_per_task = 16384;
constexpr int64_t few_queries = 2;
constexpr int few = 64, many = 256;  // groups of columns whose maxima give a first threshold

// Of a row of products plus biases.
template <class Product>
struct Filter {
  using T = typename Element<Product>::Arithmetic;

  // Writes the columns that reach the threshold to `hits`, returns how many.
  DMREC_CLONES static int64_t run(const Product* row, const T* bias, int64_t count, T threshold, int32_t* hits) {
    constexpr int block = 64;
    int64_t n = 0, j = 0;
    for (; j + block <= count; j += block) {
      uint8_t reached[block];
#pragma omp simd
      for (int l = 0; l < block; ++l) reached[l] = Element<Product>::load(row + j + l) + bias[j + l] >= threshold;
      for (int eight = 0; eight < block; eight += 8) {
        uint64_t bytes;
        memcpy(&bytes, reached + eight, 8);
        for (; bytes != 0; bytes &= bytes - 1) hits[n++] = static_cast<int32_t>(j + eight + __builtin_ctzll(bytes) / 8);
      }
    }
    for (; j < count; ++j) {
      hits[n] = static_cast<int32_t>(j);
      n += Element<Product>::load(row + j) + bias[j] >= threshold;
    }
    return n;
  }

  // The k-th largest of the maxima of `groups` groups of columns: k columns have as much or more. k <= groups.
  template <int groups>
  static T reached_by(int64_t k, const Product* row, const T* bias, int64_t count) {
    T maxima[groups];
    maxima_of<groups>(row, bias, count, maxima);
    std::nth_element(maxima, maxima + (k - 1), maxima + groups, std::greater<T>());
    return maxima[k - 1];
  }

 private:
  template <int groups>
  DMREC_CLONES static void maxima_of(const Product* row, const T* bias, int64_t count, T* maxima) {
    for (int l = 0; l < groups; ++l) maxima[l] = -std::numeric_limits<T>::infinity();
    for (int64_t j = 0; j + groups <= count; j += groups) {
#pragma omp simd
      for (int l = 0; l < groups; ++l) {
        const T product = Element<Product>::load(row + j + l) + bias[j + l];
        maxima[l] = product > maxima[l] ? product : maxima[l];
      }
    }
  }
};

template <class Stored>
double norm(Rows<const Stored> rows, int64_t width, int64_t row) {
  const Stored* from = rows.data + row * rows.stride;
  double square;
  Dots<Stored, double>{width}(from, {from, 0}, 1, &square);
  const double root = std::sqrt(square);
  const auto is_zero = [](Stored x) { return Element<Stored>::load(&x) == 0; };
  return bounded_norm(root, root <= 1e-150 && std::all_of(from, from + width, is_zero));
}

template <class Stored>
void measure_items(const Tensor& items, const Stored* bias, const PreparedItems& to) {
  using T = typename Element<Stored>::Arithmetic;
  const int64_t n_items = items.size(0), width = items.size(1);
  const Rows<const Stored> rows = rows_in<Stored>(items);
  std::vector<double> norms(n_items);
  const int64_t grain = std::max<int64_t>(1, elements_per_task / std::max<int64_t>(1, width));
  torch::stable::parallel_for(0, n_items, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) norms[i] = norm<Stored>(rows, width, i);
  });
  auto* filter_bias = static_cast<T*>(to.filter_bias.mutable_data_ptr());
  double largest_of_norms = 0, largest_of_biases = 0;
  for (int64_t i = 0; i < n_items; ++i) {
    filter_bias[i] = bias ? Element<Stored>::load(bias + i) : T(0);
    const double size = std::abs(static_cast<double>(filter_bias[i]));
    if (norms[i] <= largest_norm<T>() && size <= largest_norm<T>()) {
      largest_of_norms = std::max(largest_of_norms, norms[i]);
      largest_of_biases = std::max(largest_of_biases, size);
    } else {
      filter_bias[i] = std::numeric_limits<T>::infinity();
    }
  }
  auto* maxima = static_cast<double*>(to.maxima.mutable_data_ptr());
  maxima[0] = largest_of_norms;
  maxima[1] = largest_of_biases;
}

// `items` have adjacent elements, `bias` is contiguous
PreparedItems prepare(const Tensor& items, const std::optional<Tensor>& bias, bool copy) {
  PreparedItems result{torch::stable::new_empty(items, {items.size(0)}, arithmetic_type(items.scalar_type())),
                       torch::stable::new_empty(items, {2, 1}, ScalarType::Double),
                       copy ? torch::stable::contiguous(in_type(items, ScalarType::BFloat16))
                            : torch::stable::new_empty(items, {0, items.size(1)}, ScalarType::BFloat16)};
  with_stored_type(items.scalar_type(), [&]<class Stored>() {
    measure_items<Stored>(items, bias ? static_cast<const Stored*>(bias->const_data_ptr()) : nullptr, result);
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> prepare_items(Tensor items, std::optional<Tensor> bias, bool bf16) {
  check_items(op, items, bias);
  if (bias) bias = torch::stable::contiguous(*bias);
  items = with_adjacent_elements(std::move(items));
  PreparedItems made = prepare(items, bias, wants_copy(items, bf16));
  return {std::move(made.filter_bias), std::move(made.maxima), std::move(made.in_bf16)};
}

template <class Stored, class Product>
struct Ranking {
  using T = typename Element<Stored>::Arithmetic;

  const Tensor& query;            // (B, H), rows of adjacent elements
  const Tensor& items;            // (N, H), the same
  const Stored* bias;             // (N,), or null
  const PreparedItems* prepared;  // null: every item is scored exactly
  const CsrRows* exclude;
  const double* at_least;  // (B,), or null
  int64_t k;
  int64_t n_users = query.size(0), n_items = items.size(0), width = query.size(1);
  Rows<const Stored> q = rows_in<Stored>(query), w = rows_in<Stored>(items);
  const T* filter_bias = prepared ? static_cast<const T*>(prepared->filter_bias.const_data_ptr()) : nullptr;
  std::vector<int64_t> unbounded{};  // items that the filter cannot judge, ascending
  double items_norm = 0, items_bias = 0;

  void run(Tensor& scores, Tensor& ids) {
    if (prepared) read_items(*prepared);
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t blocks = (n_users + users_per_block - 1) / users_per_block;
    const int64_t most_ranges = std::max<int64_t>(1, n_items / (4 * items_per_tile));
    const int64_t ranges = std::min((threads + blocks - 1) / blocks, most_ranges);
    std::vector<std::vector<std::vector<Ranked>>> found(blocks * ranges);
    torch::stable::parallel_for(0, blocks * ranges, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t block = task / ranges, range = task % ranges;
        const int64_t first = n_users * block / blocks, last = n_users * (block + 1) / blocks;
        const int64_t from = n_items * range / ranges, to = n_items * (range + 1) / ranges;
        found[task] = prepared ? rank(first, last, from, to) : score_all(first, last, from, to);
      }
    });
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = n_users * block / blocks, last = n_users * (block + 1) / blocks;
      for (int64_t user = first; user < last; ++user) {
        std::vector<Ranked> all = std::move(found[block * ranges][user - first]);
        for (int64_t range = 1; range < ranges; ++range) {
          const auto& part = found[block * ranges + range][user - first];
          all.insert(all.end(), part.begin(), part.end());
        }
        if (ranges > 1) std::sort(all.begin(), all.end());
        all.resize(k, {-std::numeric_limits<double>::infinity(), -1});
        for (int64_t i = 0; i < k; ++i) {
          static_cast<double*>(scores.mutable_data_ptr())[user * k + i] = all[i].score;
          static_cast<int64_t*>(ids.mutable_data_ptr())[user * k + i] = all[i].id;
        }
      }
    }
  }

 private:
  static constexpr double nothing = -std::numeric_limits<double>::infinity();

  // The least score that is asked for.
  double needed(int64_t user) const { return at_least ? at_least[user] : nothing; }

  double exact(int64_t user, int64_t item) const {
    double dot;
    Dots<Stored, double>{width}(q.data + user * q.stride, {w.data + item * w.stride, 0}, 1, &dot);
    return dot + (bias ? Element<Stored>::load(bias + item) : 0);
  }

  struct ExactScore {
    const Ranking& ranking;
    int64_t user;
    double operator()(int64_t item) const { return ranking.exact(user, item); }
    void prefetch(int64_t item) const {
      const auto* row = reinterpret_cast<const char*>(ranking.w.data + item * ranking.w.stride);
      const int64_t bytes = std::min<int64_t>(ranking.width * sizeof(Stored), 4096);
      for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
    }
  };

  bool excluded(int64_t user, int64_t item) const {
    if (!exclude) return false;
    const int64_t* end = exclude->col + exclude->crow[user + 1];
    return std::find(exclude->col + exclude->crow[user], end, item) != end;
  }

  // An item that the bound does not cover has the filter bias +inf.
  void read_items(const PreparedItems& prepared) {
    const auto* largest = static_cast<const double*>(prepared.maxima.const_data_ptr());
    const int64_t parts = prepared.maxima.size(1);
    items_norm = *std::max_element(largest, largest + parts);
    items_bias = *std::max_element(largest + parts, largest + 2 * parts);
    constexpr int64_t block = 1024;
    for (int64_t from = 0; from < n_items; from += block) {
      const int64_t to = std::min(from + block, n_items);
      T largest = std::numeric_limits<T>::lowest();
#pragma omp simd reduction(max : largest)
      for (int64_t i = from; i < to; ++i) largest = largest > filter_bias[i] ? largest : filter_bias[i];
      if (largest < std::numeric_limits<T>::infinity()) continue;
      for (int64_t i = from; i < to; ++i) {
        if (filter_bias[i] == std::numeric_limits<T>::infinity()) unbounded.push_back(i);
      }
    }
  }

  std::vector<std::vector<Ranked>> score_all(int64_t first, int64_t last, int64_t begin, int64_t end) const {
    std::vector<std::vector<Ranked>> result;
    for (int64_t user = first; user < last; ++user) {
      Candidates<T> candidates(k, 0, needed(user));
      const int64_t *seen = nullptr, *stop = nullptr;
      if (exclude) {
        stop = exclude->col + exclude->crow[user + 1];
        seen = std::lower_bound(exclude->col + exclude->crow[user], stop, begin);
      }
      constexpr int64_t block = 256;
      double dots[block];
      std::vector<double> vector(width);
      for (int64_t j = 0; j < width; ++j) vector[j] = Element<Stored>::load(q.data + user * q.stride + j);
      for (int64_t from = begin; from < end; from += block) {
        const int64_t count = std::min(block, end - from);
        Dots<Stored, double, double>{width}(vector.data(), {w.data + from * w.stride, w.stride}, count, dots);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t item = from + i;
          if (seen != stop && *seen == item) {
            ++seen;
          } else {
            candidates.add_exact({dots[i] + (bias ? Element<Stored>::load(bias + item) : 0), item});
          }
        }
      }
      result.push_back(std::move(candidates.finish(ExactScore{*this, user})));
    }
    return result;
  }

  // Infinite where the filter cannot judge the user at all.
  double margin(int64_t user) const {
    const auto factors = type_of<Product> == ScalarType::BFloat16 ? Factors::in_bf16 : Factors::as_they_are;
    return product_bound<T>(static_cast<double>(width), norm<Stored>(q, width, user), items_norm, items_bias, factors);
  }

  // The first k among items [begin, end) for each of the users [first, last).
  std::vector<std::vector<Ranked>> rank(int64_t first, int64_t last, int64_t begin, int64_t end) const {
    const int64_t users = last - first;
    std::vector<Candidates<T>> candidates;
    const auto unbounded_begin = std::lower_bound(unbounded.begin(), unbounded.end(), begin);
    const auto unbounded_end = std::lower_bound(unbounded.begin(), unbounded.end(), end);
    std::vector<char> bounded(users);
    std::vector<int64_t> seen(users);  // the first of the user's excluded entries that may lie in the next tile
    for (int64_t u = 0; u < users; ++u) {
      const int64_t user = first + u;
      const double bound = margin(user);
      bounded[u] = std::isfinite(bound);
      candidates.emplace_back(k, bound, needed(user));
      if (exclude) seen[u] = exclude->crow[user];
      const auto add = [&](int64_t item) {
        if (!excluded(user, item)) candidates[u].add_exact({exact(user, item), item});
      };
      if (bounded[u]) {
        std::for_each(unbounded_begin, unbounded_end, add);
      } else {
        for (int64_t item = begin; item < end; ++item) add(item);
      }
    }

    const Tensor block = multiplied_here() ? query : in_type(row_range(query, first, users), type_of<Product>);
    const int64_t tile_width =
        std::clamp(users_per_block * items_per_tile / std::max<int64_t>(users, 1), items_per_tile, widest_tile);
    Tensor tile = scratch<Product>(query, users * std::min(tile_width, end - begin));
    auto* products = static_cast<Product*>(tile.mutable_data_ptr());
    const auto hits = std::make_unique_for_overwrite<int32_t[]>(std::min(tile_width, end - begin) + 1);
    over_item_tiles(begin, end, tile_width, [&](int64_t from, int64_t count) {
      multiply(first, users, from, count, block, tile);
      for (int64_t u = 0; u < users; ++u) {
        if (!bounded[u]) continue;
        Product* row = products + u * count;
        for (auto i = std::lower_bound(unbounded_begin, unbounded_end, from); i != unbounded_end && *i < from + count;
             ++i) {
          mask(row + (*i - from));
        }
        if (exclude) {
          const int64_t stop = exclude->crow[first + u + 1];
          for (; seen[u] < stop && exclude->col[seen[u]] < from + count; ++seen[u]) {
            if (exclude->col[seen[u]] >= from) mask(row + (exclude->col[seen[u]] - from));
          }
        }
        const T* of_items = filter_bias + from;
        if (from > begin || needed(first + u) > nothing) {
          // there is a threshold already
        } else if (2 * k <= few) {
          candidates[u].expect(Filter<Product>::template reached_by<few>(k, row, of_items, count));
        } else if (2 * k <= many) {
          candidates[u].expect(Filter<Product>::template reached_by<many>(k, row, of_items, count));
        }
        const int64_t n = Filter<Product>::run(row, of_items, count, candidates[u].threshold, hits.get());
        for (int64_t h = 0; h < n; ++h) {
          const T product = Element<Product>::load(row + hits[h]) + of_items[hits[h]];
          candidates[u].add(product, from + hits[h], ExactScore{*this, first + u});
        }
        candidates[u].tighten();
      }
    });

    std::vector<std::vector<Ranked>> result(users);
    for (int64_t u = 0; u < users; ++u) {
      result[u] = std::move(candidates[u].finish(ExactScore{*this, first + u}));
    }
    return result;
  }

  bool multiplied_here() const { return std::is_same_v<Product, float> && n_users <= few_queries; }

  // The products of users with items [from, from + count), (users, count), to the beginning of `tile`. `block`: the
  // users' vectors as `Product`, unless they are multiplied here.
  void multiply(int64_t first, int64_t users, int64_t from, int64_t count, const Tensor& block, Tensor& tile) const {
    if constexpr (std::is_same_v<Product, float>) {
      if (multiplied_here()) {
        auto* products = static_cast<float*>(tile.mutable_data_ptr());
        for (int64_t u = 0; u < users; ++u) {
          const Rows<const Stored> rows{w.data + from * w.stride, w.stride};
          Dots<Stored, float>{width}(q.data + (first + u) * q.stride, rows, count, products + u * count);
        }
        return;
      }
    }
    const Tensor& factors = prepared->in_bf16.size(0) > 0 ? prepared->in_bf16 : items;
    const Tensor out = torch::stable::view(torch::stable::narrow(tile, 0, 0, users * count), {users, count});
    mm_out(out, block, transposed(in_type(row_range(factors, from, count), type_of<Product>)));
  }

  static void mask(Product* product) {
    Element<Product>::store(product, -std::numeric_limits<typename Element<Product>::Arithmetic>::infinity());
  }
};

std::tuple<Tensor, Tensor> rank_topk(Tensor query, Tensor items, int64_t k, std::optional<Tensor> bias,
                                     std::optional<Tensor> exclude_crow, std::optional<Tensor> exclude_col, bool bf16,
                                     std::optional<Tensor> filter_bias, std::optional<Tensor> maxima,
                                     std::optional<Tensor> in_bf16, std::optional<Tensor> at_least) {
  check_ranking_inputs(query, items, k, bias, exclude_crow, exclude_col, at_least);
  if (bias.has_value()) bias = torch::stable::contiguous(*bias);
  if (at_least.has_value()) at_least = torch::stable::contiguous(*at_least);
  std::optional<CsrInput> excluded;
  CsrRows seen{};
  if (exclude_crow.has_value()) {
    excluded.emplace(op, std::move(*exclude_crow), std::move(*exclude_col), std::nullopt);
    seen = sorted_rows(op, *excluded, items.size(0));
    STD_TORCH_CHECK(seen.n_rows == query.size(0), op, ": exclude must have a row per query");
  }
  query = with_adjacent_elements(std::move(query));
  items = with_adjacent_elements(std::move(items));
  Tensor scores = torch::stable::new_empty(query, {query.size(0), k}, ScalarType::Double);
  Tensor ids = torch::stable::new_empty(query, {query.size(0), k}, ScalarType::Long);
  if (query.size(0) == 0) return {std::move(scores), std::move(ids)};
  const auto given = prepared_items(items, bf16, std::move(filter_bias), std::move(maxima), std::move(in_bf16));
  std::optional<PreparedItems> prepared = given;
  if (!prepared && query.size(0) > few_queries) prepared = prepare(items, bias, false);
  const PreparedItems* of_all = prepared ? &*prepared : nullptr;
  with_stored_type(query.scalar_type(), [&]<class Stored>() {
    const auto* of_items = bias ? static_cast<const Stored*>(bias->const_data_ptr()) : nullptr;
    const CsrRows* exclude = excluded ? &seen : nullptr;
    const auto* bounds = at_least ? static_cast<const double*>(at_least->const_data_ptr()) : nullptr;
    if constexpr (std::is_same_v<Stored, double>) {
      Ranking<Stored, double>{query, items, of_items, of_all, exclude, bounds, k}.run(scores, ids);
    } else if (bf16) {
      Ranking<Stored, c10::BFloat16>{query, items, of_items, of_all, exclude, bounds, k}.run(scores, ids);
    } else {
      Ranking<Stored, float>{query, items, of_items, of_all, exclude, bounds, k}.run(scores, ids);
    }
  });
  return {std::move(scores), std::move(ids)};
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("rank_topk", TORCH_BOX(&dmrec::cpu::rank_topk));
  m.impl("_prepare_items", TORCH_BOX(&dmrec::cpu::prepare_items));
}

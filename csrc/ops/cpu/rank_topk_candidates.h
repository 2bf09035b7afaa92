// Candidates of one user on the way through the items, from products that are only nearly right.
// A product differs from the exact score by at most `margin`. With t the k-th largest product so far, no item with a
// product below t - 2 margin can be among the first k: `threshold` holds that bound, and only what reaches it is kept.
// Scoring begins with the k largest products: the k-th of their exact scores, less one margin, bounds the others. A
// buffer that stays too full, because many scores are nearly equal, is scored on the way. Nothing is ever dropped
// unproven.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "math/rank_order.h"

namespace dmrec::cpu {

struct Ranked {
  double score;
  int64_t id;
  bool operator<(const Ranked& other) const { return ranks_before(score, id, other.score, other.id); }
};

template <class T>
class Candidates {
 public:
  T threshold = std::numeric_limits<T>::lowest();  // finite: -inf masks items

  // Items that score less than `needed` are not asked for. NaN asks for all.
  Candidates(int64_t k, double margin, double needed) : k_(k), margin_(margin), worst_needed_(needed) {
    if (!(needed > -std::numeric_limits<double>::infinity())) kept_.reserve(std::min<int64_t>(capacity(k), 256));
    raise(needed - margin);
  }

  static int64_t capacity(int64_t k) { return 4 * k + 64; }

  // k items that add() has not had yet reach at least this product.
  void expect(T product) { raise(static_cast<double>(product) - 2 * margin_); }

  // exact(id) is called where the buffer must be cut, exact.prefetch(id) some calls before.
  template <class Exact>
  void add(T product, int64_t id, const Exact& exact) {
    if (!(product >= threshold)) return;  // it has risen since the tile was filtered
    if (static_cast<int64_t>(kept_.size()) >= capacity(k_)) {
      prune();
      if (static_cast<int64_t>(kept_.size()) > 2 * k_ + 32) rescore(exact);
      if (!(product >= threshold)) return;
    }
    kept_.push_back({product, id});
  }

  // Called now and then: raises the threshold by what has come.
  void tighten() {
    if (static_cast<int64_t>(kept_.size()) >= worth_pruning_) prune();
  }

  void add_exact(Ranked item) {
    if (item.score < worst_needed_) return;
    best_.push_back(item);
    if (static_cast<int64_t>(best_.size()) <= capacity(k_)) return;
    cut_best();
    worst_needed_ = best_.back().score;  // NaN refuses nothing
  }

  // The first k, in order.
  template <class Exact>
  std::vector<Ranked>& finish(const Exact& exact) {
    prune();
    rescore(exact);
    return best_;
  }

 private:
  struct Near {
    T product;
    int64_t id;
  };

  // The k largest products come first.
  void prune() {
    if (static_cast<int64_t>(kept_.size()) <= k_) return;
    const auto kth = kept_.begin() + (k_ - 1);
    std::nth_element(kept_.begin(), kth, kept_.end(), [](Near a, Near b) { return a.product > b.product; });
    raise(static_cast<double>(kth->product) - 2 * margin_);
    const T bound = threshold;
    kept_.erase(std::remove_if(kept_.begin(), kept_.end(), [bound](Near a) { return a.product < bound; }), kept_.end());
    worth_pruning_ = static_cast<int64_t>(kept_.size()) + 2 * k_;
  }

  // After prune().
  template <class Exact>
  void rescore(const Exact& exact) {
    constexpr int64_t ahead = 2;
    const int64_t n = static_cast<int64_t>(kept_.size());
    for (int64_t i = 0; i < std::min(ahead, n); ++i) exact.prefetch(kept_[i].id);
    for (int64_t i = 0; i < n; ++i) {
      if (i + ahead < n) exact.prefetch(kept_[i + ahead].id);
      if (i == k_ && static_cast<int64_t>(best_.size()) == k_) raise(worst_of_best() - margin_);
      if (i < k_ || kept_[i].product >= threshold) best_.push_back({exact(kept_[i].id), kept_[i].id});
    }
    kept_.clear();
    cut_best();
    if (static_cast<int64_t>(best_.size()) == k_) raise(best_.back().score - margin_);
  }

  double worst_of_best() const { return std::max_element(best_.begin(), best_.end())->score; }

  void cut_best() {
    std::sort(best_.begin(), best_.end());
    best_.resize(std::min<size_t>(k_, best_.size()));
  }

  // Never up by rounding: margins have room for it. NaN (an exact score may be) raises nothing.
  void raise(double bound) {
    if (bound > threshold) threshold = static_cast<T>(bound);
  }

  int64_t k_;
  double margin_;
  double worst_needed_;
  int64_t worth_pruning_ = 3 * k_;
  std::vector<Near> kept_;
  std::vector<Ranked> best_;
};

}  // namespace dmrec::cpu

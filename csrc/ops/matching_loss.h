// Options of matching_loss.
#pragma once

#include "math/matching_loss.h"
#include "ops/composite_prior.h"

namespace dmrec {

inline MatchingOptions matching_options(const std::string& strategy, double beta, double alpha,
                                        const std::string& interpolation, bool squared, double eps,
                                        const std::string& fusion) {
  STD_TORCH_CHECK(strategy == "godm" || strategy == "cpdm" || strategy == "mddm" || strategy == "kl",
                  "matching_loss: strategy must be godm, cpdm, mddm or kl");
  STD_TORCH_CHECK(fusion == "add" || fusion == "collaborative", "matching_loss: fusion must be add or collaborative");
  const Strategy chosen = strategy == "godm"   ? Strategy::godm
                          : strategy == "cpdm" ? Strategy::cpdm
                          : strategy == "mddm" ? Strategy::mddm
                                               : Strategy::kl;
  return {chosen, beta, alpha, interpolation_of("matching_loss", interpolation), squared, eps, fusion == "add"};
}

// `choices` is strategy + 4 * interpolation + 16 * squared + 32 * (fusion is "add"), each by its place in the
// enumerations.
inline MatchingOptions matching_options(int64_t choices, double beta, double alpha, double eps) {
  const int64_t interpolation = choices / 4 % 4;
  STD_TORCH_CHECK(choices >= 0 && choices < 64 && interpolation < 3, "matching_loss: no such choices");
  return {static_cast<Strategy>(choices % 4),
          beta,
          alpha,
          static_cast<Interpolation>(interpolation),
          (choices & 16) != 0,
          eps,
          (choices & 32) != 0};
}

// Whether the backward needs the distances of the forward: the root's derivative does.
inline bool saves_distance(const MatchingOptions& options) {
  return options.strategy == Strategy::godm && !options.squared;
}

}  // namespace dmrec

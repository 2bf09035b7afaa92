// The order of a ranking: score descending, equal scores by item id ascending, NaN last (those, too, by id).
#pragma once

#include "math/elementary.h"

namespace dmrec {

template <class T, class Id>
DMREC_FN bool ranks_before(T score_a, Id id_a, T score_b, Id id_b) {
  const bool nan_a = score_a != score_a, nan_b = score_b != score_b;
  if (nan_a != nan_b) return nan_b;
  if (nan_a || score_a == score_b) return id_a < id_b;
  return score_a > score_b;
}

}  // namespace dmrec

// The loop over tiles of the item axis, once for all operators and devices: whatever grows with the number of items
// exists for one tile at a time.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dmrec {

// visit(first, count) for items [begin, end) in order, `tile` at a time
template <class Visit>
void over_item_tiles(int64_t begin, int64_t end, int64_t tile, const Visit& visit) {
  for (int64_t first = begin; first < end; first += tile) visit(first, std::min(tile, end - first));
}

}  // namespace dmrec

// Operations in which the lanes of a warp meet: shuffles, votes, reductions, __syncwarp.
#include "machine.h"

namespace simt {

namespace {

// The lane that lane `i` reads in a shuffle.
int source_lane(const Thread& lane, int i) {
  const int width = lane.width, argument = lane.argument, segment = i & ~(width - 1);
  switch (lane.operation) {
    case WarpOperation::shuffle: return segment | (argument & (width - 1));
    case WarpOperation::shuffle_up: return i - argument < segment ? i : i - argument;
    case WarpOperation::shuffle_down: return i + argument >= segment + width ? i : i + argument;
    default: return (i ^ argument) >= segment + width ? i : i ^ argument;
  }
}

uint64_t reduced(WarpOperation operation, uint64_t a, uint64_t b, bool is_signed) {
  const auto x = static_cast<uint32_t>(a), y = static_cast<uint32_t>(b);
  const bool x_less = is_signed ? static_cast<int32_t>(x) < static_cast<int32_t>(y) : x < y;
  switch (operation) {
    case WarpOperation::reduce_add: return x + y;
    case WarpOperation::reduce_min: return x_less ? x : y;
    case WarpOperation::reduce_max: return x_less ? y : x;
    case WarpOperation::reduce_and: return x & y;
    case WarpOperation::reduce_or: return x | y;
    default: return x ^ y;
  }
}

template <class Body>
void for_lanes(unsigned mask, const Body& body) {
  for (; mask != 0; mask &= mask - 1) body(__builtin_ctz(mask));
}

// All lanes have seen what each has seen, and each has seen the others' latest.
void join_clocks(Warp& warp, Thread* lanes, unsigned mask) {
  uint32_t joined[32] = {};
  for_lanes(mask, [&](int q) {
    for (int p = 0; p < 32; ++p) joined[p] = std::max(joined[p], p == q ? lanes[q].clock : warp.seen[q][p]);
  });
  for_lanes(mask, [&](int q) {
    std::copy(joined, joined + 32, warp.seen[q]);
    ++lanes[q].clock;
  });
}

void check_arrival(const Thread& self, const Warp& warp, const Thread* lanes) {
  const auto here = [&self] { return describe(self) + " at " + describe(self.where); };
  const unsigned mask = self.mask;
  if (!(mask >> self.lane & 1)) report("warp operation: the mask leaves out the calling lane: " + here());
  if (warp.size < 32 && mask >> warp.size) {
    report("warp operation: the mask names lanes beyond the end of a partial warp: " + here());
  }
  const bool shuffles = self.operation >= WarpOperation::shuffle && self.operation <= WarpOperation::shuffle_xor;
  const bool width_is_right = self.width > 0 && self.width <= 32 && (self.width & (self.width - 1)) == 0;
  const bool lane_is_right = self.operation == WarpOperation::shuffle || (self.argument >= 0 && self.argument < 32);
  if (shuffles && !(width_is_right && lane_is_right)) {
    report("shuffle: by " + std::to_string(self.argument) + " within " + std::to_string(self.width) +
           " lanes is not defined: " + here());
  }
  if (mask & warp.exited) {
    const int lane = __builtin_ctz(mask & warp.exited);
    report("warp operation: lane " + std::to_string(lane) + ", named in the mask, has exited: " + here());
  }
  if (const unsigned others = mask & warp.waiting) {
    const Thread& other = lanes[__builtin_ctz(others)];
    if (other.mask != mask || other.operation != self.operation || !same_place(other.where, self.where)) {
      report("warp operation: lanes meet in different ones: " + here() + " and " + describe(other) + " at " +
             describe(other.where));
    }
  }
}

}  // namespace

Slot warp_operation(WarpOperation operation, unsigned mask, Slot value, int argument, int width,
                    const Location& where) {
  const Inside inside;
  count_operation();
  Thread& self = *machine.current;
  Warp& warp = machine.warps[self.warp];
  Thread* lanes = &machine.threads[self.warp * 32];
  self.operation = operation;
  self.mask = mask;
  self.value = value;
  self.argument = argument;
  self.width = width;
  self.where = where;
  check_arrival(self, warp, lanes);
  self.state = State::in_warp_operation;
  warp.waiting |= 1u << self.lane;
  if ((warp.waiting & mask) != mask) {
    yield_thread();
    return self.value;
  }

  // the last lane has come
  warp.waiting &= ~mask;
  Slot in[32];
  for (int i = 0; i < warp.size; ++i) in[i] = lanes[i].value;
  Slot combined = value;
  switch (operation) {
    case WarpOperation::sync: join_clocks(warp, lanes, mask); break;
    case WarpOperation::shuffle:
    case WarpOperation::shuffle_up:
    case WarpOperation::shuffle_down:
    case WarpOperation::shuffle_xor:
      for_lanes(mask, [&](int i) {
        const int source = source_lane(lanes[i], i);
        if (!(mask >> source & 1)) {
          report("shuffle: " + describe(lanes[i]) + " reads lane " + std::to_string(source) +
                 ", which is not in the mask, at " + describe(where));
        }
        lanes[i].value = in[source];
      });
      break;
    case WarpOperation::ballot: {
      unsigned votes = 0;
      for_lanes(mask, [&](int i) { votes |= static_cast<unsigned>(from_slot<int>(in[i]) != 0) << i; });
      for_lanes(mask, [&](int i) { lanes[i].value = to_slot(votes); });
      break;
    }
    case WarpOperation::match_any:
      for_lanes(mask, [&](int i) {
        unsigned same = 0;
        for_lanes(mask, [&](int j) {
          same |= static_cast<unsigned>(in[i].words[0] == in[j].words[0] && in[i].words[1] == in[j].words[1]) << j;
        });
        lanes[i].value = to_slot(same);
      });
      break;
    default:
      combined = in[__builtin_ctz(mask)];
      for_lanes(mask & (mask - 1), [&](int i) {
        combined.words[0] = reduced(operation, combined.words[0], in[i].words[0], combined.is_signed);
      });
      for_lanes(mask, [&](int i) { lanes[i].value = combined; });
  }
  std::vector<int> released;
  for_lanes(mask, [&](int i) { released.push_back(lanes[i].number); });
  make_ready(released);
  yield_thread();
  return self.value;
}

}  // namespace simt

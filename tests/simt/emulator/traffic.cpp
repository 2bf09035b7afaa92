// Memory traffic at source level. The accesses that the lanes of a warp make with the same instruction for the same
// time are one request. Global memory moves in sectors of 32 bytes: a request is ideal if it touches no more of them
// than its bytes fill. Shared memory has 32 banks of 4 bytes: a request takes as many cycles as the busiest bank has
// different words. What caches save is not counted.
#include "traffic.h"

#include <set>
#include <unordered_map>

#include "machine.h"

namespace simt {

namespace {

struct Request {
  bool shared = false;
  std::set<uintptr_t> words;  // of 4 bytes
};

struct Instruction {
  uintptr_t address;
  int warp;
  uint32_t time;
  bool operator==(const Instruction&) const = default;
};
struct Hash {
  size_t operator()(const Instruction& i) const {
    return (i.address * 0x9E3779B97F4A7C15ull) ^ (uint64_t{i.time} << 20) ^ static_cast<uint64_t>(i.warp);
  }
};

std::unordered_map<Instruction, Request, Hash> requests;
std::unordered_map<uint64_t, uint32_t> times;  // of an instruction in a thread
std::map<std::string, Traffic> totals;

}  // namespace

void count_access(uintptr_t address, int bytes, bool shared, bool write, uintptr_t instruction) {
  const Thread& self = *machine.current;
  const uintptr_t key = instruction * 2 + write;
  const uint32_t time = times[key * 2048 + static_cast<uint64_t>(self.number)]++;
  Request& request = requests[{key, self.warp, time}];
  request.shared = shared;
  for (uintptr_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) request.words.insert(word);
}

void end_traffic_of_block() {
  if (!machine.options.traffic) return;
  Traffic& total = totals[machine.kernel];
  for (const auto& [instruction, request] : requests) {
    const auto words = request.words.size();
    if (request.shared) {
      uint64_t busiest = 0, in_bank[32] = {};
      for (uintptr_t word : request.words) busiest = std::max(busiest, ++in_bank[word % 32]);
      total.shared_cycles += busiest;
      total.ideal_shared_cycles += (words + 31) / 32;
    } else {
      std::set<uintptr_t> sectors;
      for (uintptr_t word : request.words) sectors.insert(word / 8);
      ++total.requests;
      total.sectors += sectors.size();
      total.ideal_sectors += (words + 7) / 8;
    }
  }
  requests.clear();
  times.clear();
}

std::map<std::string, Traffic>& traffic() { return totals; }

}  // namespace simt

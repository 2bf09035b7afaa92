// Counts of memory traffic by kernel, for whoever launches with Options::traffic.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace simt {

struct Traffic {
  uint64_t requests = 0, sectors = 0, ideal_sectors = 0;  // global memory
  uint64_t shared_cycles = 0, ideal_shared_cycles = 0;
};

std::map<std::string, Traffic>& traffic();  // since it was last cleared

}  // namespace simt

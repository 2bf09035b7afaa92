// The state of the one block that runs at a time, shared by the emulator's files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "simt.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace simt {

enum class State : uint8_t { ready, at_barrier, in_warp_operation, finished };

struct Thread {
  void* stack_pointer = nullptr;
  uint3 index{};
  int number = 0, lane = 0, warp = 0;  // number: within the block
  State state = State::ready;
  uint32_t clock = 1;  // one more with each __syncwarp

  // what it waits for
  Location where;
  Vote vote = Vote::none;
  int predicate = 0;
  WarpOperation operation = WarpOperation::none;
  unsigned mask = 0;
  int argument = 0, width = 32;
  Slot value;  // handed in, then handed back
};

struct Warp {
  int size = 32;
  unsigned waiting = 0, exited = 0;  // lanes
  // seen[q][p]: the latest clock of lane p whose accesses are ordered before what lane q does next
  uint32_t seen[32][32] = {};
};

struct Machine {
  Options options;
  bool running = false;
  const char* kernel = "";
  dim3 grid, block;
  uint3 block_index{};
  uint32_t block_number = 0;  // from 1, in the order of execution
  uint32_t epoch = 1;         // barriers passed by the block
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<int> ready;  // numbers of threads; the last one runs next
  Thread* current = nullptr;
  int alive = 0, at_barrier = 0;
  Thread* first_at_barrier = nullptr;
  std::string finding;  // the first one; ends the launch
};
extern Machine machine;
extern bool checked_build;

// Leaves the running thread; comes back when it is its turn again.
void yield_thread();
// Notes a finding of the running thread and never comes back.
[[noreturn]] void report(const std::string& finding);
std::string describe(const Location& where);
inline bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && strcmp(a.file_name(), b.file_name()) == 0;
}
std::string describe(const Thread& thread);

inline void make_ready(Thread& thread) {
  thread.state = State::ready;
  machine.ready.push_back(thread.number);
}

// --- shadow.cpp
void begin_shadow_launch();
void begin_shadow_block(size_t dynamic_shared_bytes);
bool on_a_fiber_stack(uintptr_t address);

// --- traffic.cpp
void count_access(uintptr_t address, int bytes, bool shared, bool write, uintptr_t instruction);
void end_traffic_of_block();

}  // namespace simt

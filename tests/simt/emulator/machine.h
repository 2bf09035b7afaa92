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
  bool in_kernel = false;  // the kernel's own code runs: not the emulator's, which a kernel has called
  const char* kernel = "";
  dim3 grid, block;
  uint3 block_index{};
  uint32_t block_number = 0;  // from 1, over all launches
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
  return a.line() == b.line() && a.column() == b.column() && strcmp(a.file_name(), b.file_name()) == 0;
}
std::string describe(const Thread& thread);

// While it lives, the emulator runs: accesses to memory are its own.
struct Inside {
  const bool from_kernel = machine.in_kernel;
  Inside() { machine.in_kernel = false; }
  ~Inside() { machine.in_kernel = from_kernel; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

// Threads that may continue, in ascending order of their numbers; the order of the launch decides which is first.
void make_ready(const std::vector<int>& numbers);
void maybe_yield();  // in random order, where threads meet in atomics

// --- shadow.cpp
void begin_shadow_launch(size_t dynamic_shared_bytes);
void begin_shadow_block();
void count_operation();

// --- launch.cpp
bool on_a_fiber_stack(uintptr_t address);
bool on_own_stack(uintptr_t address);

// --- traffic.cpp
void count_access(uintptr_t address, int bytes, bool shared, bool write, uintptr_t instruction);
void end_traffic_of_block();

}  // namespace simt

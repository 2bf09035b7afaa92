// Fibers, the scheduler, barriers. A thread runs until it waits for others; then the next one that is ready does.
#include <sys/mman.h>

#include <cstdio>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "machine.h"

#if !defined(__x86_64__)
#error "the emulator switches fibers in x86-64 assembly"
#endif

// Saves the callee's registers on the stack it leaves, takes them from the one it enters.
extern "C" void simt_switch(void** save_stack_pointer, void* load_stack_pointer);
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
)");

namespace simt {

Machine machine;
bool checked_build = false;  // not a member: set by a constructor that may run before the machine's

namespace {

constexpr int invalid_configuration = 9;  // cudaErrorInvalidConfiguration

// One behind the other, a page that nobody may touch below each.
struct Stacks {
  static constexpr size_t page = 4096;
  char* data = nullptr;
  size_t each = 0, bytes = 0;

  void reserve(size_t threads, size_t stack_bytes) {
    stack_bytes = (stack_bytes + page - 1) / page * page + page;
    if (stack_bytes == each && threads * each <= bytes) return;
    if (data) munmap(data, bytes);
    each = stack_bytes;
    bytes = threads * each;
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    data = mapped == MAP_FAILED ? nullptr : static_cast<char*>(mapped);
    if (!data) throw std::runtime_error("simt: no memory for the threads' stacks");
    for (size_t i = 0; i < threads; ++i) mprotect(data + i * each, page, PROT_NONE);
  }
};
Stacks stacks;
void* scheduler_stack_pointer;
void (*kernel_function)(void*);
void* kernel_context;

void run_thread() {
  machine.in_kernel = true;
  kernel_function(kernel_context);
  machine.in_kernel = false;
  machine.current->state = State::finished;
  for (;;) yield_thread();
}

void prepare(Thread& thread, int number) {
  const dim3 size = machine.block;
  thread = {};
  thread.index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
  thread.number = number;
  thread.lane = number % 32;
  thread.warp = number / 32;
  // stacks of one size would all begin at the same place of the caches
  const size_t offset = static_cast<size_t>(number) * 320 % 8192 / 64 * 64;
  auto** top = reinterpret_cast<void**>(stacks.data + (number + 1) * stacks.each - 64 - offset);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(run_thread);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
  thread.stack_pointer = top;
}

void release_barrier() {
  int count = 0;
  for (const Thread& thread : machine.threads) count += thread.state == State::at_barrier && thread.predicate != 0;
  const int waiting = machine.at_barrier;
  ++machine.epoch;
  machine.at_barrier = 0;
  std::vector<int> released;
  for (Thread& thread : machine.threads) {
    if (thread.state != State::at_barrier) continue;
    thread.predicate = thread.vote == Vote::count ? count : thread.vote == Vote::all ? count == waiting : count > 0;
    released.push_back(thread.number);
  }
  make_ready(released);
}

void after_exit(Thread& thread) {
  --machine.alive;
  machine.warps[thread.warp].exited |= 1u << thread.lane;
  if (machine.at_barrier == 0) return;
  machine.finding = "divergent barrier: " + describe(thread) + " exited while " + std::to_string(machine.at_barrier) +
                    " threads wait at __syncthreads " + describe(machine.first_at_barrier->where);
}

std::string deadlock() {
  std::string text = "deadlock in block (" + std::to_string(machine.block_index.x) + "," +
                     std::to_string(machine.block_index.y) +
                     "): " + std::to_string(machine.threads.size() - machine.alive) + " threads have exited, " +
                     std::to_string(machine.at_barrier) + " wait at a barrier";
  int named = 0;
  for (const Thread& thread : machine.threads) {
    if (thread.state == State::finished || named++ == 6) continue;
    if (named > 6) break;
    text += "\n  thread " + std::to_string(thread.number) +
            (thread.state == State::at_barrier ? " waits at __syncthreads " : " waits in a warp operation ") +
            describe(thread.where);
  }
  return text;
}

uint64_t random_state;
uint64_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

void run_block() {
  const int n = static_cast<int>(machine.threads.size());
  for (int i = 0; i < n; ++i) prepare(machine.threads[i], i);
  for (int w = 0; w < static_cast<int>(machine.warps.size()); ++w) {
    machine.warps[w] = {};
    machine.warps[w].size = std::min(32, n - 32 * w);
  }
  machine.alive = n;
  machine.at_barrier = 0;
  machine.epoch = 1;
  machine.ready.clear();
  std::vector<int> all(n);
  std::iota(all.begin(), all.end(), 0);
  make_ready(all);
  while (machine.finding.empty() && machine.alive > 0) {
    if (machine.ready.empty()) {
      machine.finding = deadlock();
      return;
    }
    if (machine.options.order == Order::random) {
      std::swap(machine.ready[next_random() % machine.ready.size()], machine.ready.back());
    }
    machine.current = &machine.threads[machine.ready.back()];
    machine.ready.pop_back();
    simt_switch(&scheduler_stack_pointer, machine.current->stack_pointer);
    if (machine.current->state == State::finished) after_exit(*machine.current);
  }
}

// The i-th block to run.
uint64_t block_at(uint64_t i, uint64_t blocks) {
  if (machine.options.order == Order::ascending) return i;
  if (machine.options.order == Order::descending) return blocks - 1 - i;
  uint64_t stride = machine.options.seed * 2654435761u % blocks | 1;
  while (std::gcd(stride, blocks) != 1) stride += 2;
  return (i % blocks * (stride % blocks) + machine.options.seed) % blocks;
}

bool no_gpu_takes(dim3 grid, dim3 block, size_t shared) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
         grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || shared > (48 << 10);
}

}  // namespace

Options& options() { return machine.options; }
bool is_checked_build() { return checked_build; }
uint3 thread_index() { return machine.current->index; }
uint3 block_index() { return machine.block_index; }
dim3 block_size() { return machine.block; }
dim3 grid_size() { return machine.grid; }

bool on_a_fiber_stack(uintptr_t address) {
  const auto begin = reinterpret_cast<uintptr_t>(stacks.data);
  return address >= begin && address < begin + stacks.bytes;
}

bool on_own_stack(uintptr_t address) {
  const auto begin = reinterpret_cast<uintptr_t>(stacks.data) + machine.current->number * stacks.each;
  return address >= begin && address < begin + stacks.each;
}

void make_ready(const std::vector<int>& numbers) {
  for (int number : numbers) machine.threads[number].state = State::ready;
  if (machine.options.order == Order::descending) {  // the last one that is pushed runs first
    machine.ready.insert(machine.ready.end(), numbers.begin(), numbers.end());
  } else {
    machine.ready.insert(machine.ready.end(), numbers.rbegin(), numbers.rend());
  }
}

void maybe_yield() {
  const Inside inside;
  if (machine.options.order != Order::random || next_random() % 2 == 0) return;
  make_ready({machine.current->number});
  yield_thread();
}

void yield_thread() { simt_switch(&machine.current->stack_pointer, scheduler_stack_pointer); }

void report(const std::string& finding) {
  if (machine.finding.empty()) machine.finding = finding;
  for (;;) yield_thread();
}

std::string describe(const Location& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

std::string describe(const Thread& thread) {
  char text[128];
  snprintf(text, sizeof text, "block (%u,%u) thread %d (warp %d lane %d)", machine.block_index.x, machine.block_index.y,
           thread.number, thread.warp, thread.lane);
  return text;
}

int barrier(Vote vote, int predicate, const Location& where) {
  const Inside inside;
  Thread& self = *machine.current;
  count_operation();
  const int exited = static_cast<int>(machine.threads.size()) - machine.alive;
  if (exited > 0) {
    report("divergent barrier: " + std::to_string(exited) + " threads of the block exited before " + describe(self) +
           " reached __syncthreads " + describe(where));
  }
  if (machine.at_barrier == 0) {
    machine.first_at_barrier = &self;
  } else if (const Thread& other = *machine.first_at_barrier; !same_place(other.where, where) || other.vote != vote) {
    report("divergent barrier: " + describe(self) + " is at " + describe(where) + " while " + describe(other) +
           " waits at " + describe(other.where));
  }
  self.state = State::at_barrier;
  self.vote = vote;
  self.predicate = predicate;
  self.where = where;
  if (++machine.at_barrier == machine.alive) release_barrier();
  yield_thread();
  return self.predicate;
}

int launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared_bytes, void (*kernel)(void*), void* context) {
  if (no_gpu_takes(grid, block, dynamic_shared_bytes)) return invalid_configuration;
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  const size_t n = size_t{block.x} * block.y * block.z;
  stacks.reserve(n, std::max<size_t>(machine.options.stack_bytes, 16 << 10));
  machine.kernel = name;
  machine.grid = grid;
  machine.block = block;
  machine.threads.resize(n);
  machine.warps.resize((n + 31) / 32);
  machine.finding.clear();
  kernel_function = kernel;
  kernel_context = context;
  random_state = machine.options.seed * 0x9E3779B97F4A7C15ull | 1;
  begin_shadow_launch(dynamic_shared_bytes);
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks && machine.finding.empty(); ++i) {
    const uint64_t b = block_at(i, blocks);
    machine.block_index = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                           static_cast<unsigned>(b / grid.x / grid.y)};
    ++machine.block_number;
    begin_shadow_block();
    run_block();
    end_traffic_of_block();
  }
  if (!machine.finding.empty()) throw std::runtime_error(std::string("kernel ") + name + ": " + machine.finding);
  return 0;
}

}  // namespace simt

// Shadow memory: what of a kernel's accesses is out of bounds, misaligned, a race, or reads what nobody wrote.
// Registered buffers and shared arrays have a cell per four bytes: who wrote it last, who read it, and when. Two
// accesses of different threads, one of them a write, are in order if a barrier of the block lies between them, or a
// __syncwarp of both lanes; never if the threads are of different blocks. Shuffles order nothing, as in CUDA.
// The cells of registers do not exist: instrumented accesses to the fibers' own stacks are let pass.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>

#include "machine.h"

namespace simt {

namespace {

struct Access {
  uint32_t block = 0;  // 0: none
  uint32_t clock = 0, epoch = 0;
  uint16_t thread = 0;
  uint8_t bytes = 0;  // which of the four, as bits
  bool atomic = false;
};

struct Cell {
  Access write, read, other_read;  // the last ones; other_read by another thread than read
  uint8_t initialised = 0;         // bytes, as bits
};

struct Range {
  uintptr_t begin, end;
  bool writable, shared;
  std::string name;
  std::vector<Cell> cells;

  bool contains(uintptr_t address) const { return address >= begin && address < end; }
  Cell& cell_of(uintptr_t address) { return cells[(address - begin) / 4]; }
};

std::vector<Range> ranges;
size_t last_found = 0;
uint64_t accesses;
uintptr_t main_stack;

// Shared memory of a block: arrays one behind the other with gaps, which no access may touch.
constexpr size_t shared_limit = 48 << 10, gap = 64, arena_bytes = 512 << 10;
struct SharedArena {
  std::unique_ptr<char, decltype(&free)> memory{static_cast<char*>(aligned_alloc(1024, arena_bytes)), &free};
  size_t used = 0, counted = 0;
  std::map<const void*, void*> arrays;

  char* take(size_t bytes, size_t alignment) {
    used = (used + alignment - 1) / alignment * alignment;
    char* result = memory.get() + used;
    used += bytes + gap;
    memset(result, 0xff, bytes);
    return result;
  }
};
SharedArena arena;
char* dynamic_array;

Range* find(uintptr_t address) {
  if (last_found < ranges.size() && ranges[last_found].contains(address)) return &ranges[last_found];
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].contains(address)) return &ranges[last_found = i];
  }
  return nullptr;
}

void add_range(uintptr_t begin, size_t bytes, bool writable, bool shared, bool fresh, std::string name) {
  Range range{begin, begin + bytes, writable, shared, std::move(name), {}};
  for (size_t i = 0; i < ranges.size();) {  // slices of one tensor: one range
    Range& other = ranges[i];
    if (other.shared || other.end <= range.begin || range.end <= other.begin) {
      ++i;
      continue;
    }
    range.begin = std::min(range.begin, other.begin);
    range.end = std::max(range.end, other.end);
    range.writable = range.writable || other.writable;
    if (range.name != other.name) range.name += "/" + other.name;
    ranges.erase(ranges.begin() + static_cast<long>(i));
    i = 0;
  }
  range.begin &= ~uintptr_t{3};
  range.cells.resize((range.end - range.begin + 3) / 4);
  for (Cell& cell : range.cells) cell.initialised = fresh ? 0 : 15;
  ranges.push_back(std::move(range));
  last_found = 0;
}

// File and line of an instruction, by binutils' addr2line; only once a finding is certain.
std::string place(uintptr_t instruction) {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(instruction), &info) || !info.dli_fname) return "an unknown place";
  char command[4096], line[2048] = "";
  const auto offset = instruction - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase);
  snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx 2>/dev/null", info.dli_fname, offset);
  std::string result;
  if (FILE* pipe = popen(command, "r")) {
    while (fgets(line, sizeof line, pipe)) {  // inlined functions: the innermost first
      std::string text(line, strcspn(line, " \n"));
      if (text.find("??") != std::string::npos) continue;
      if (!result.empty()) result += ", called from ";
      result += text;
    }
    pclose(pipe);
  }
  return result.empty() ? "an unknown place (compile with -g)" : result;
}

// An access under examination.
struct Examined {
  uintptr_t address;
  int bytes;
  bool write, atomic;
  uintptr_t instruction;  // 0: an atomic, whose place is known
  const Location* where;

  std::string text() const {
    return describe(*machine.current) +
           (atomic  ? " updates "
            : write ? " writes "
                    : " reads ") +
           std::to_string(bytes) + " bytes at " + (where ? describe(*where) : place(instruction));
  }
};

bool in_order(const Access& earlier) {
  const Thread& self = *machine.current;
  if (earlier.thread == self.number || earlier.epoch < machine.epoch) return true;
  const Thread& other = machine.threads[earlier.thread];
  return other.warp == self.warp && machine.warps[self.warp].seen[self.lane][other.lane] >= earlier.clock;
}

void check_race(const Range& range, uintptr_t address, const Examined& now, const Access& earlier, uint8_t bytes,
                const char* kind) {
  if (earlier.block == 0 || (earlier.bytes & bytes) == 0 || (now.atomic && earlier.atomic)) return;
  const bool same_block = earlier.block == machine.block_number;
  if (same_block && in_order(earlier)) return;
  report(std::string("data race (") + kind + ") on " + range.name + " at byte " +
         std::to_string(address - range.begin) + ": " + now.text() + "; the other is thread " +
         std::to_string(earlier.thread) + (same_block ? " of the same block" : " of another block"));
}

void examine_cell(Range& range, uintptr_t address, uint8_t bytes, const Examined& now) {
  Cell& cell = range.cell_of(address);
  const Thread& self = *machine.current;
  const bool reads = !now.write || now.atomic;
  if (reads && (cell.initialised & bytes) != bytes) {
    report("reads what was never written: " + range.name + " at byte " + std::to_string(address - range.begin) + ": " +
           now.text());
  }
  check_race(range, address, now, cell.write, bytes, now.write ? "two writes" : "write, then read");
  const Access access{
      machine.block_number, self.clock, machine.epoch, static_cast<uint16_t>(self.number), bytes, now.atomic};
  if (now.write) {
    check_race(range, address, now, cell.read, bytes, "read, then write");
    check_race(range, address, now, cell.other_read, bytes, "read, then write");
    cell.write = access;
    cell.initialised |= bytes;
    if (!now.atomic) cell.read = cell.other_read = {};
  } else {
    if (cell.read.block != 0 && (cell.read.thread != access.thread || cell.read.block != access.block)) {
      cell.other_read = cell.read;
    }
    cell.read = access;
  }
}

// Constants that the compiler placed in this very library, and the launching function's captures on the main stack.
bool may_be_read_anyway(uintptr_t address) {
  if (address > main_stack - 4096 && address < main_stack + (1 << 20)) return true;
  static char here;
  Dl_info self{}, other{};
  return dladdr(&here, &self) && dladdr(reinterpret_cast<void*>(address), &other) && self.dli_fbase == other.dli_fbase;
}

// Near a registered buffer, or beyond its end: the name helps.
void examine_outside(const Examined& now) {
  constexpr uintptr_t near = 8192;
  for (const Range& range : ranges) {
    if (now.address + now.bytes + near <= range.begin || now.address >= range.end + near) continue;
    report("out of bounds: byte " + std::to_string(static_cast<long>(now.address - range.begin)) + " of " + range.name +
           ", which has " + std::to_string(range.end - range.begin) + ": " + now.text());
  }
  if (!now.write && may_be_read_anyway(now.address)) return;
  report((now.address < 4096 ? "null pointer: " : "out of bounds of every buffer: ") + now.text());
}

void examine(const Examined& now) {
  if (!machine.running || on_a_fiber_stack(now.address)) return;
  if (++accesses > machine.options.most_accesses) {
    report("more than " + std::to_string(machine.options.most_accesses) + " accesses: an endless loop? " + now.text());
  }
  Range* range = find(now.address);
  if (!range || now.address + now.bytes > range->end) {
    return examine_outside(now);
  }
  const bool power_of_two = (now.bytes & (now.bytes - 1)) == 0;
  if (power_of_two && now.bytes <= 16 && now.address % now.bytes != 0) {
    report("misaligned: " + range->name + " at byte " + std::to_string(now.address - range->begin) + ": " + now.text());
  }
  if (now.write && !range->writable) report("writes to " + range->name + ", which is only read: " + now.text());
  if (machine.options.traffic && !now.atomic) {
    count_access(now.address, now.bytes, range->shared, now.write, now.instruction);
  }
  for (uintptr_t cell = now.address & ~uintptr_t{3}; cell < now.address + now.bytes; cell += 4) {
    const uintptr_t first = std::max(cell, now.address), last = std::min(cell + 4, now.address + now.bytes);
    const auto bytes = static_cast<uint8_t>(((1u << (last - cell)) - 1) & ~((1u << (first - cell)) - 1));
    examine_cell(*range, first, bytes, now);
  }
}

uintptr_t caller(void* address) { return reinterpret_cast<uintptr_t>(address); }

}  // namespace

void begin_shadow_launch() {
  char here;
  main_stack = reinterpret_cast<uintptr_t>(&here);
  accesses = 0;
  for (Range& range : ranges) {
    for (Cell& cell : range.cells) cell.write = cell.read = cell.other_read = {};
  }
}

void begin_shadow_block(size_t dynamic_shared_bytes) {
  std::erase_if(ranges, [](const Range& range) { return range.shared; });
  last_found = 0;
  arena.used = arena.counted = 0;
  arena.arrays.clear();
  dynamic_array = arena.take(dynamic_shared_bytes, 1024);
  if (checked_build && dynamic_shared_bytes > 0) {
    add_range(reinterpret_cast<uintptr_t>(dynamic_array), dynamic_shared_bytes, true, true, true,
              "dynamic shared memory");
  }
}

void* dynamic_shared() { return dynamic_array; }

void* shared_array(const void* tag, size_t bytes, size_t alignment, const char* name) {
  auto [place, is_new] = arena.arrays.try_emplace(tag, nullptr);
  if (!is_new) return place->second;
  arena.counted += bytes;
  if (arena.counted > shared_limit) report(std::string("more than 48 KiB of static shared memory, with ") + name);
  place->second = arena.take(bytes, std::max<size_t>(alignment, 16));
  if (checked_build) {
    add_range(reinterpret_cast<uintptr_t>(place->second), bytes, true, true, true, std::string("shared array ") + name);
  }
  return place->second;
}

void register_buffer(const void* data, size_t bytes, bool writable, bool fresh, const char* name) {
  if (!checked_build || bytes == 0) return;
  add_range(reinterpret_cast<uintptr_t>(data), bytes, writable, false, fresh, name);
}

void mark_written(const void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  Range* range = checked_build && bytes > 0 ? find(begin) : nullptr;
  for (uintptr_t at = begin; range && at < begin + bytes && at < range->end; at += 4)
    range->cell_of(at).initialised = 15;
}

void forget_buffers() {
  ranges.clear();
  last_found = 0;
}

void vector_access(const void* from, void* to, int bytes) {
  const uintptr_t instruction = caller(__builtin_return_address(0));
  examine({reinterpret_cast<uintptr_t>(from), bytes, false, false, instruction, nullptr});
  if (to) examine({reinterpret_cast<uintptr_t>(to), bytes, true, false, instruction, nullptr});
}

void atomic_access(void* address, int bytes, const Location& where) {
  if (checked_build) {
    examine({reinterpret_cast<uintptr_t>(address), bytes, true, true, 0, &where});
  } else if (++accesses > machine.options.most_accesses) {
    report("an endless loop of atomics at " + describe(where));
  }
}

}  // namespace simt

// --- what -fsanitize=thread,bounds,alignment,null calls --------------------------------------------------------------

namespace {

void plain_access(void* address, int bytes, bool write, void* instruction) {
  simt::examine({reinterpret_cast<uintptr_t>(address), bytes, write, false, simt::caller(instruction), nullptr});
}

struct SourcePlace {
  const char* file;
  unsigned line, column;
};

std::string describe(const SourcePlace& place) {
  return std::string(place.file) + ":" + std::to_string(place.line) + " in " + simt::describe(*simt::machine.current);
}

}  // namespace

#define HOOK(name, bytes, write) \
  void name(void* address) { plain_access(address, bytes, write, __builtin_return_address(0)); }
#define HOOKS(bytes)                               \
  HOOK(__tsan_read##bytes, bytes, false)           \
  HOOK(__tsan_write##bytes, bytes, true)           \
  HOOK(__tsan_volatile_read##bytes, bytes, false)  \
  HOOK(__tsan_volatile_write##bytes, bytes, true)  \
  HOOK(__tsan_unaligned_read##bytes, bytes, false) \
  HOOK(__tsan_unaligned_write##bytes, bytes, true)

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* address, unsigned long bytes) {
  plain_access(address, static_cast<int>(bytes), false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long bytes) {
  plain_access(address, static_cast<int>(bytes), true, __builtin_return_address(0));
}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() { simt::checked_build = true; }

void __ubsan_handle_out_of_bounds(SourcePlace* place, uintptr_t index) {
  if (!simt::machine.running) return;
  simt::report("array index " + std::to_string(static_cast<long>(index)) + " out of bounds at " + describe(*place));
}
void __ubsan_handle_type_mismatch_v1(SourcePlace* place, uintptr_t pointer) {
  if (!simt::machine.running) return;
  simt::report((pointer ? "misaligned: " : "null pointer: ") + describe(*place));
}
}

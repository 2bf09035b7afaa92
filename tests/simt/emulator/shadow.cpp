// Shadow memory: what of a kernel's accesses is out of bounds, a race, or reads what nobody wrote.
// Registered buffers that may be written, and shared arrays, have a cell per four bytes (or fewer, once something
// smaller was accessed): who wrote it last, which atomics and reads it has seen. Two accesses of different threads, one
// of them a write, are in order if a barrier of their block lies between them, or a __syncwarp of both lanes; never if
// the threads are of different blocks. Shuffles order nothing, as in CUDA. Two atomics do not race.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>

#include "machine.h"

namespace simt {

namespace {

struct Access {
  uint32_t block = 0;  // counted over all launches; 0: none
  uint32_t clock = 0, epoch = 0;
  uint16_t thread = 0, warp = 0;
};

// The accesses that still matter. One that is in order before a newer one does not: whatever races with it alone would
// come between the two. Beyond the places there are, one of the same warp gives way, or of the same block, or the
// oldest.
template <int places>
struct History {
  Access of[places];

  template <class InOrder>
  void add(const Access& now, const InOrder& in_order) {
    int place = -1;
    for (int i = 0; i < places; ++i) {
      if (of[i].block == 0 || in_order(of[i])) {
        if (place >= 0) of[i] = {};
        place = place < 0 ? i : place;
      }
    }
    for (int i = 0; i < places && place < 0; ++i) {
      if (of[i].block == now.block && of[i].warp == now.warp) place = i;
    }
    for (int i = 0; i < places && place < 0; ++i) {
      if (of[i].block == now.block) place = i;
    }
    of[place < 0 ? 0 : place] = now;
  }
};

struct Cell {
  Access write;
  History<2> atomics;
  History<4> reads;
  uint32_t written = 0;  // the block that first wrote it; 0: nobody
};

constexpr uint32_t before_all = ~0u;  // in Cell::written: before any kernel ran

struct Range {
  uintptr_t begin, end;
  bool writable, shared;
  std::string name;
  int unit = 4;               // bytes of a cell
  std::vector<Cell> cells{};  // none where nothing may be written

  bool contains(uintptr_t address) const { return address >= begin && address < end; }

  void make_cells(bool fresh) {
    if (!writable) return;
    while ((begin | end) % unit != 0) unit /= 2;
    cells.assign((end - begin) / unit, {});
    set_written(begin, end, !fresh);
  }

  // Cells small enough that an access covers whole ones.
  void refine(uintptr_t address, int bytes) {
    while (((address - begin) | static_cast<uintptr_t>(bytes)) % unit != 0) {
      std::vector<Cell> finer(cells.size() * 2);
      for (size_t i = 0; i < finer.size(); ++i) finer[i] = cells[i / 2];
      cells = std::move(finer);
      unit /= 2;
    }
  }

  void set_written(uintptr_t from, uintptr_t to, bool written) {
    refine(from, static_cast<int>(to - from) | 16);
    for (uintptr_t at = from; at < to; at += unit) {
      cells[(at - begin) / unit] = {};
      cells[(at - begin) / unit].written = written ? before_all : 0;
    }
  }
};

std::vector<Range> ranges;  // those that may be written come first: where ranges overlap they are the ones that count
uint64_t operations;        // accesses, barriers, warp operations of this launch
uint32_t first_block;       // of this launch

// Shared memory of a block: arrays one behind the other with gaps, which no access may touch.
constexpr size_t shared_limit = 48 << 10, gap = 64, arena_bytes = 512 << 10;
struct SharedArena {
  struct Array {
    char* data;
    size_t bytes;
  };
  std::unique_ptr<char, decltype(&free)> memory{static_cast<char*>(aligned_alloc(1024, arena_bytes)), &free};
  size_t used = 0, counted = 0;
  std::map<const void*, Array> arrays;

  char* place(const void* tag, size_t bytes, size_t alignment, const std::string& name) {
    used = (used + alignment - 1) / alignment * alignment;
    char* data = memory.get() + used;
    used += bytes + gap;
    counted += bytes;
    arrays[tag] = {data, bytes};
    memset(data, 0xff, bytes);
    if (checked_build && bytes > 0) {
      const auto begin = reinterpret_cast<uintptr_t>(data);
      Range range{begin, begin + bytes, true, true, name};
      range.make_cells(true);
      ranges.insert(ranges.begin(), std::move(range));
    }
    return data;
  }
};
SharedArena arena;
char dynamic_tag;

Range* find(uintptr_t address) {
  for (Range& range : ranges) {
    if (range.contains(address)) return &range;
  }
  return nullptr;
}

// File and line of an instruction, by binutils' addr2line; only once a finding is certain.
std::string place_of(uintptr_t instruction) {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(instruction), &info) || !info.dli_fname) return "an unknown place";
  char command[4096], line[2048] = "";
  const auto offset = instruction - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase);
  snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx 2>/dev/null", info.dli_fname, offset);
  std::string result;
  if (FILE* pipe = popen(command, "r")) {
    while (fgets(line, sizeof line, pipe)) {  // inlined functions: the innermost first
      std::string text(line, strcspn(line, " \n"));
      if (text.find("??") != std::string::npos || text.find("vectors.h") != std::string::npos) continue;
      if (!result.empty()) result += ", called from ";
      result += text;
    }
    pclose(pipe);
  }
  return result.empty() ? "an unknown place (compile with -g, have addr2line)" : result;
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
           std::to_string(bytes) + " bytes at " + (where ? describe(*where) : place_of(instruction));
  }
};

bool of_another_block(const Access& earlier) { return earlier.block != machine.block_number; }

// Of this launch, and not of another block's shared memory.
bool counts(const Access& earlier, const Range& range) {
  return earlier.block >= first_block && earlier.block != 0 && !(range.shared && of_another_block(earlier));
}

bool in_order(const Access& earlier) {
  if (of_another_block(earlier)) return false;
  const Thread& self = *machine.current;
  if (earlier.thread == self.number || earlier.epoch < machine.epoch) return true;
  return earlier.warp == self.warp && machine.warps[self.warp].seen[self.lane][earlier.thread % 32] >= earlier.clock;
}

void check_race(const Range& range, uintptr_t address, const Examined& now, const Access& earlier, const char* kind) {
  if (!counts(earlier, range) || in_order(earlier)) return;
  report(std::string("data race (") + kind + ") on " + range.name + " at byte " +
         std::to_string(address - range.begin) + ": " + now.text() + "; the other is thread " +
         std::to_string(earlier.thread) + (of_another_block(earlier) ? " of another block" : " of the same block"));
}

void examine_cell(Range& range, Cell& cell, uintptr_t address, const Examined& now) {
  const Thread& self = *machine.current;
  const bool unwritten = range.shared ? cell.written != machine.block_number : cell.written == 0;
  if ((!now.write || now.atomic) && unwritten) {
    report("reads what was never written: " + range.name + " at byte " + std::to_string(address - range.begin) + ": " +
           now.text());
  }
  check_race(range, address, now, cell.write, now.write ? "two writes" : "write, then read");
  if (!now.atomic) {
    for (const Access& atomic : cell.atomics.of) {
      check_race(range, address, now, atomic, now.write ? "two writes" : "write, then read");
    }
  }
  if (now.write) {
    for (const Access& read : cell.reads.of) check_race(range, address, now, read, "read, then write");
    if (unwritten) cell.written = range.shared || cell.written == 0 ? machine.block_number : cell.written;
  }
  const Access access{machine.block_number, self.clock, machine.epoch, static_cast<uint16_t>(self.number),
                      static_cast<uint16_t>(self.warp)};
  const auto is_past = [&range](const Access& earlier) { return !counts(earlier, range) || in_order(earlier); };
  if (now.atomic) {
    cell.atomics.add(access, is_past);
  } else if (now.write) {
    cell.write = access;
  } else {
    cell.reads.add(access, is_past);
  }
}

// Constants that the compiler placed in this very library.
bool is_constant(uintptr_t address) {
  static const auto constants = [] {
    static char here;
    std::vector<std::pair<uintptr_t, uintptr_t>> found;
    Dl_info self{};
    dladdr(&here, &self);
    auto wanted = std::pair(reinterpret_cast<uintptr_t>(self.dli_fbase), &found);
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* context) {
          auto& [base, result] = *static_cast<decltype(wanted)*>(context);
          for (int i = 0; info->dlpi_addr == base && i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            const uintptr_t begin = base + segment.p_vaddr;
            if (segment.p_type == PT_LOAD && !(segment.p_flags & PF_W)) {
              result->emplace_back(begin, begin + segment.p_memsz);
            }
          }
          return 0;
        },
        &wanted);
    return found;
  }();
  for (const auto& [begin, end] : constants) {
    if (address >= begin && address < end) return true;
  }
  return false;
}

// Near a registered buffer, or beyond its end: the name helps.
void examine_outside(const Examined& now) {
  if (on_a_fiber_stack(now.address)) {
    report("reaches into the local memory of another thread (or needs a larger Options::stack_bytes): " + now.text());
  }
  const Range* nearest = nullptr;
  uintptr_t least = 8192;
  for (const Range& range : ranges) {
    const uintptr_t last = now.address + now.bytes - 1;
    const uintptr_t distance = last >= range.end ? last - range.end : range.begin - now.address;
    if (distance >= least) continue;
    least = distance;
    nearest = &range;
  }
  if (nearest) {
    report("out of bounds: byte " + std::to_string(static_cast<long>(now.address - nearest->begin)) + " of " +
           nearest->name + ", which has " + std::to_string(nearest->end - nearest->begin) + ": " + now.text());
  }
  if (!now.write && is_constant(now.address)) return;
  report((now.address < 4096 ? "null pointer: " : "out of bounds of every buffer: ") + now.text());
}

void examine(const Examined& now) {
  const Inside inside;
  if (!inside.from_kernel || on_own_stack(now.address)) return;
  count_operation();
  Range* range = find(now.address);
  if (!range || now.address + now.bytes > range->end) return examine_outside(now);
  if (now.write && !range->writable) report("writes to " + range->name + ", which is only read: " + now.text());
  if (machine.options.traffic && !now.atomic) {
    count_access(now.address, now.bytes, range->shared, now.write, now.instruction);
  }
  if (!range->writable) return;
  range->refine(now.address, now.bytes);
  for (uintptr_t at = now.address; at < now.address + now.bytes; at += range->unit) {
    examine_cell(*range, range->cells[(at - range->begin) / range->unit], at, now);
  }
}

void check_alignment(const Examined& now) {
  const Inside inside;
  if (inside.from_kernel && now.address % now.bytes != 0) report("misaligned: " + now.text());
}

uintptr_t caller(void* address) { return reinterpret_cast<uintptr_t>(address); }

}  // namespace

void count_operation() {
  if (++operations > machine.options.most_operations) {
    report("more than " + std::to_string(machine.options.most_operations) + " operations, an endless loop? " +
           describe(*machine.current));
  }
}

void begin_shadow_launch(size_t dynamic_shared_bytes) {
  operations = 0;
  first_block = machine.block_number + 1;
  std::erase_if(ranges, [](const Range& range) { return range.shared; });
  arena.used = arena.counted = 0;
  arena.arrays.clear();
  arena.place(&dynamic_tag, dynamic_shared_bytes, 1024, "dynamic shared memory");
}

void begin_shadow_block() {
  for (const auto& [tag, array] : arena.arrays) memset(array.data, 0xff, array.bytes);
}

void* dynamic_shared() { return arena.arrays[&dynamic_tag].data; }

void* shared_array(const void* tag, size_t bytes, size_t alignment, const char* name) {
  const Inside inside;
  if (const auto found = arena.arrays.find(tag); found != arena.arrays.end()) return found->second.data;
  if (arena.counted + bytes > shared_limit) report(std::string("more than 48 KiB of shared memory, with ") + name);
  return arena.place(tag, bytes, std::max<size_t>(alignment, 16), std::string("shared array ") + name);
}

void register_buffer(const void* data, size_t bytes, bool writable, bool fresh, const char* name) {
  if (!checked_build || bytes == 0) return;
  const auto begin = reinterpret_cast<uintptr_t>(data), end = begin + bytes;
  for (Range& other : ranges) {  // a part, or all, of one that is there
    if (other.writable != writable || begin < other.begin || end > other.end) continue;
    if (writable) other.set_written(begin, end, !fresh);
    return;
  }
  std::erase_if(ranges, [&](const Range& other) {
    return other.writable == writable && other.begin >= begin && other.end <= end;
  });
  Range range{begin, end, writable, false, name};
  range.make_cells(fresh);
  ranges.insert(writable ? ranges.begin() : ranges.end(), std::move(range));
}

void mark_written(const void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  for (Range& range : ranges) {
    if (range.writable && range.begin < begin + bytes && begin < range.end) {
      range.set_written(std::max(begin, range.begin), std::min(begin + bytes, range.end), true);
    }
  }
}

void forget_buffers() { ranges.clear(); }

void vector_copy(const void* from, void* to, int bytes) {
  const uintptr_t instruction = caller(__builtin_return_address(0));
  const Examined read{reinterpret_cast<uintptr_t>(from), bytes, false, false, instruction, nullptr};
  const Examined write{reinterpret_cast<uintptr_t>(to), bytes, true, false, instruction, nullptr};
  for (const Examined& each : {read, write}) {
    examine(each);
    check_alignment(each);
  }
  memcpy(to, from, static_cast<size_t>(bytes));
}

void atomic_access(void* address, int bytes, const Location& where) {
  maybe_yield();
  const Examined now{reinterpret_cast<uintptr_t>(address), bytes, true, true, 0, &where};
  if (checked_build) {
    examine(now);
    check_alignment(now);
  } else {
    count_operation();
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
  const simt::Inside inside;
  if (!inside.from_kernel) return;
  simt::report("array index " + std::to_string(static_cast<long>(index)) + " out of bounds at " + describe(*place));
}
void __ubsan_handle_type_mismatch_v1(SourcePlace* place, uintptr_t pointer) {
  const simt::Inside inside;
  if (!inside.from_kernel) return;
  simt::report((pointer ? "misaligned: " : "null pointer: ") + describe(*place));
}
}

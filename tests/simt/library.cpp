// What the tests set and read of the emulator, in addition to the operators.
#include <cstdio>

#include "ops/cuda/launch.h"
#include "simt.h"
#include "traffic.h"

namespace dmrec::cuda {

const char* error_text(int code) {
  return code == 9 ? "invalid configuration" : "an error that the emulator does not give";
}

int kernels_run() { return 0; }

}  // namespace dmrec::cuda

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int simt_is_checked() { return simt::is_checked_build(); }

EXPORT void simt_configure(int order, unsigned long seed, int traffic) {
  simt::options() = {};
  simt::options().order = static_cast<simt::Order>(order);
  simt::options().seed = seed;
  simt::options().traffic = traffic != 0;
  simt::traffic().clear();
}

// A line per kernel: name, requests, sectors, ideal sectors, shared cycles, ideal shared cycles. Returns the length.
EXPORT int simt_traffic(char* text, int size) {
  int written = 0;
  for (const auto& [kernel, t] : simt::traffic()) {
    written += snprintf(text + written, static_cast<size_t>(size - written), "%s %lu %lu %lu %lu %lu\n", kernel.c_str(),
                        t.requests, t.sectors, t.ideal_sectors, t.shared_cycles, t.ideal_shared_cycles);
    if (written >= size) return size;
  }
  return written;
}

// Instruction sets. Two ways to use what the processor has, both bound while the library loads or runs:
//   DMREC_CLONES         on a function of plain loops: compiled once per level below, the best one bound at load time.
//                        Everything it calls must be inlined into it to profit.
//   in_widest_vectors    for code written in vectors: job.template run<bytes>(part) with the width of the registers.
// Off where the compiler cannot do it (these levels: GCC 12), and with -DDMREC_NO_CLONES (sanitizers cannot follow the
// resolver): then the instruction set of the compiler's options.
#pragma once

#include "math/elementary.h"

#if !defined(DMREC_NO_CLONES) && defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define DMREC_HAS_CLONES 1
#define DMREC_CLONES __attribute__((target_clones("default", "arch=x86-64-v2", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define DMREC_HAS_CLONES 0
#define DMREC_CLONES
#endif

namespace dmrec::cpu {

#if defined(__AVX512F__)
constexpr int compiled_register_bytes = 64;
#elif defined(__AVX2__)
constexpr int compiled_register_bytes = 32;
#else
constexpr int compiled_register_bytes = 16;
#endif

#if DMREC_HAS_CLONES

inline int register_bytes() {
  static const int bytes = __builtin_cpu_supports("x86-64-v4")   ? 64
                           : __builtin_cpu_supports("x86-64-v3") ? 32
                                                                 : compiled_register_bytes;
  return bytes;
}

template <class Job, class Part>
__attribute__((target("arch=x86-64-v4"))) void in_512_bits(const Job& job, const Part& part) {
  job.template run<64>(part);
}

template <class Job, class Part>
__attribute__((target("arch=x86-64-v3"))) void in_256_bits(const Job& job, const Part& part) {
  job.template run<32>(part);
}

#endif

template <class Job, class Part>
void in_widest_vectors(const Job& job, const Part& part) {
#if DMREC_HAS_CLONES
  if (register_bytes() == 64) return in_512_bits(job, part);
  if (register_bytes() == 32) return in_256_bits(job, part);
#endif
  job.template run<compiled_register_bytes>(part);
}

}  // namespace dmrec::cpu

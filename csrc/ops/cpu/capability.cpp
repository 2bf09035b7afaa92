// Tells which instruction set the clones of target.h run with on this processor.
#include <string>

#include "ops/cpu/target.h"
#include "ops/library.h"

namespace {

std::string cpu_capability() {
#if DMREC_HAS_CLONES
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2)";
  if (__builtin_cpu_supports("x86-64-v2")) return "x86-64-v2 (SSE4.2)";
#endif
  return "the compiler's baseline";
}

}  // namespace

DMREC_SCHEMAS(m) { m.def("_cpu_capability() -> str"); }

DMREC_KERNELS(CompositeExplicitAutograd, m) { m.impl("_cpu_capability", TORCH_BOX(&cpu_capability)); }

// _multiply_unless_one_ on the CPU.
#include "ops/cpu/dispatch.h"
#include "ops/cpu/target.h"
#include "ops/library.h"
#include "ops/reduction.h"

namespace dmrec::cpu {
namespace {

template <class Stored>
DMREC_CLONES void multiply(Stored* values, int64_t n, typename Element<Stored>::Arithmetic factor) {
  using E = Element<Stored>;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) E::store(values + i, E::load(values + i) * factor);
}

void multiply_unless_one(std::vector<Tensor> values, Tensor factor) {
  check_multiplied(values, factor);
  with_stored_type(factor.scalar_type(), [&]<class Stored>() {
    const auto number = Element<Stored>::load(static_cast<const Stored*>(factor.const_data_ptr()));
    if (number == 1) return;
    for (Tensor& value : values) {
      auto* const data = static_cast<Stored*>(value.mutable_data_ptr());
      torch::stable::parallel_for(0, value.numel(), 32768,
                                  [&](int64_t begin, int64_t end) { multiply(data + begin, end - begin, number); });
    }
  });
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) { m.impl("_multiply_unless_one_", TORCH_BOX(&dmrec::cpu::multiply_unless_one)); }

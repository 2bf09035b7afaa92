// Large outputs on huge pages. A buffer above malloc's limit for recycling is mapped anew for each call, and its first
// touch costs a fault per page: 16,384 of 4 KiB in 64 MiB, several times the work of filling them, or 32 of 2 MiB.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dmrec::cpu {

// To be called on a fresh tensor before anything is written; a wish that the kernel may ignore.
inline void prefer_huge_pages(torch::stable::Tensor& fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t recycled_below = 32 << 20, page = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  const uintptr_t end = begin + static_cast<uintptr_t>(fresh.numel()) * fresh.element_size();
  if (end - begin < recycled_below) return;
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)fresh;
#endif
}

}  // namespace dmrec::cpu

// Large buffers on huge pages. A buffer above malloc's limit for recycling is mapped anew for each call, and its first
// touch costs a fault per page: 16,384 of 4 KiB in 64 MiB, several times the work of filling them, or 32 of 2 MiB.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dmrec::cpu {

constexpr int64_t huge_page = 2 << 20;

// To be called before anything is written; a wish that the kernel may ignore.
inline void prefer_huge_pages(void* fresh, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(fresh);
  const uintptr_t end = begin + static_cast<uintptr_t>(bytes);
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)fresh;
  (void)bytes;
#endif
}

// The same for a fresh tensor, if malloc does not recycle its memory.
inline void prefer_huge_pages(torch::stable::Tensor& fresh) {
  constexpr int64_t recycled_below = 32 << 20;
  const int64_t bytes = fresh.numel() * fresh.element_size();
  if (bytes >= recycled_below) prefer_huge_pages(fresh.mutable_data_ptr(), bytes);
}

}  // namespace dmrec::cpu

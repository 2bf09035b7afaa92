// Scratch that stays with its thread from call to call, for tiles of products. From malloc a tile costs a page fault
// for every 4 KiB of each call, and between the calls of a training step small results take their place in the hole
// that a freed tile left, so that the next tile needs another.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <new>
#include <utility>

#include "ops/cpu/huge_pages.h"
#include "ops/cpu/products.h"

namespace dmrec::cpu {

// Of whole huge pages.
class ScratchMemory {
 public:
  explicit ScratchMemory(int64_t bytes)
      : bytes_((bytes + huge_page - 1) / huge_page * huge_page), data_(::operator new(bytes_, alignment)) {
    prefer_huge_pages(data_, bytes_);
  }
  ~ScratchMemory() { ::operator delete(data_, alignment); }
  ScratchMemory(const ScratchMemory&) = delete;
  ScratchMemory& operator=(const ScratchMemory&) = delete;

  int64_t bytes() const { return bytes_; }
  void* data() const { return data_; }

 private:
  static constexpr std::align_val_t alignment{huge_page};
  int64_t bytes_;
  void* data_;
};

// What this thread keeps; null if it is in use, or should not be so large.
inline std::shared_ptr<ScratchMemory> kept_scratch(int64_t bytes) {
  constexpr int64_t most_kept = 32 << 20;
  thread_local std::shared_ptr<ScratchMemory> kept;
  if (bytes > most_kept || kept.use_count() > 1) return nullptr;
  if (!kept || kept->bytes() < bytes) kept = std::make_shared<ScratchMemory>(bytes);
  return kept;
}

// A fresh vector on the CPU, whose contents are not set. The memory that a thread keeps is in use until the last tensor
// of it is gone; what is asked for meanwhile comes from the allocator.
template <class Product>
Tensor scratch(const Tensor& like, int64_t elements) {
  std::shared_ptr<ScratchMemory> lent = kept_scratch(elements * static_cast<int64_t>(sizeof(Product)));
  if (!lent) return torch::stable::new_empty(like, {elements}, type_of<Product>);
  void* data = lent->data();
  return torch::stable::from_blob(data, {elements}, {1}, like.device(), type_of<Product>,
                                  [lent = std::move(lent)](void*) mutable { lent.reset(); });
}

}  // namespace dmrec::cpu

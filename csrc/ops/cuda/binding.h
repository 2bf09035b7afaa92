// What the bindings of all CUDA operators share: device, stream, memory, errors.
// Built for the tests' emulator (DMREC_EMULATED), tensors are the CPU's, and the memory that kernels may touch is
// registered with it.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "ops/cuda/launch.h"
#include "ops/library.h"
#include "ops/row_inputs.h"

#if defined(DMREC_EMULATED)
#include "simt.h"
#define DMREC_CUDA_KERNELS(m) DMREC_KERNELS(CPU, m)
#else
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#define DMREC_CUDA_KERNELS(m) DMREC_KERNELS(CUDA, m)
#endif

namespace dmrec::cuda {

// While it lives, the device of a tensor is the current one.
class OnDevice {
#if defined(DMREC_EMULATED)
 public:
  explicit OnDevice(const Tensor&) {}
  ~OnDevice() { simt::forget_buffers(); }
  Stream stream() const { return nullptr; }
#else
 public:
  explicit OnDevice(const Tensor& tensor) : index_(index_of(tensor)), guard_(index_) {}
  Stream stream() const {
    Stream stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return stream;
  }

 private:
  static int32_t index_of(const Tensor& tensor) {
    STD_TORCH_CHECK(tensor.is_cuda(), "dmrec_ext: all tensors must be on one CUDA device");
    return tensor.get_device_index();
  }

  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

// --- memory that a kernel may touch: the emulator must know it -------------------------------------------------------

#if defined(DMREC_EMULATED)
inline int64_t bytes_spanned(const Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return (last + 1) * static_cast<int64_t>(tensor.element_size());
}
#endif

inline const void* data_to_read(const Tensor& tensor, [[maybe_unused]] const char* name) {
#if defined(DMREC_EMULATED)
  simt::register_buffer(tensor.const_data_ptr(), bytes_spanned(tensor), false, false, name);
#endif
  return tensor.const_data_ptr();
}

// of a tensor that nothing has been written to
inline void* data_to_fill(const Tensor& tensor, [[maybe_unused]] const char* name) {
  void* data = const_cast<void*>(tensor.const_data_ptr());
#if defined(DMREC_EMULATED)
  simt::register_buffer(data, bytes_spanned(tensor), true, true, name);
#endif
  return data;
}

// torch itself has written to it: a matrix product
inline void was_filled([[maybe_unused]] const Tensor& tensor) {
#if defined(DMREC_EMULATED)
  simt::mark_written(tensor.const_data_ptr(), bytes_spanned(tensor));
#endif
}

// --- errors and types ------------------------------------------------------------------------------------------------

inline void check_launch(const char* op, int code) {
  STD_TORCH_CHECK(code == 0, op, ": CUDA error ", code, " (", error_text(code), ")");
}

inline Type type_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return Type::float32;
    case ScalarType::Double: return Type::float64;
    case ScalarType::Half: return Type::float16;
    default: return Type::bfloat16;
  }
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Whether every row begins at a multiple of 16 bytes.
inline bool rows_aligned(const Tensor& matrix) {
  const int64_t row_bytes = matrix.stride(0) * static_cast<int64_t>(matrix.element_size());
  return is_aligned(matrix.const_data_ptr()) && (matrix.size(0) <= 1 || row_bytes % 16 == 0);
}

}  // namespace dmrec::cuda

// CSR tensors for kernels. Their contents are not looked at: that would wait for the GPU. Kernels clamp them.
#pragma once

#include "ops/csr_input.h"
#include "ops/cuda/binding.h"

namespace dmrec::cuda {

// No entries where there is no column that they could lie in.
inline CsrIndices indices_of(const CsrInput& x, int64_t n_cols) {
  return {static_cast<const int64_t*>(data_to_read(x.crow, "crow")),
          static_cast<const int64_t*>(data_to_read(x.col, "col")), x.n_rows(), n_cols > 0 ? x.nnz() : 0, n_cols};
}

}  // namespace dmrec::cuda

// Schema of csr_aggregate: X W + bias for a sparse X (B, N) and a dense W (N, E). Where W has 16 bits, X, bias and
// result have its dtype or, with `dtype`, float32.
//   _csr_dot         (nnz,) products of row b of `rows` and row col of `dense` for each entry: the gradient of values,
//                    in the dtype of rows: that of dense, or float32 where dense has 16 bits
//   _csr_transpose   offsets and columns of X^T, and where in X each of its entries is
//   _csr_is_valid    whether offsets rise from 0 to nnz, columns rise within rows and lie in [0, n_cols)
// The gradient of W is csr_aggregate of X^T; t_* are X^T where the caller has it, for that gradient alone.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "csr_aggregate(Tensor crow, Tensor col, Tensor? values, Tensor dense, Tensor? bias=None, Tensor? t_crow=None, "
      "Tensor? t_col=None, Tensor? t_values=None, ScalarType? dtype=None) -> Tensor");
  m.def("_csr_dot(Tensor crow, Tensor col, Tensor rows, Tensor dense) -> Tensor");
  m.def("_csr_transpose(Tensor crow, Tensor col, int n_cols) -> (Tensor, Tensor, Tensor)");
  m.def("_csr_is_valid(Tensor crow, Tensor col, int n_cols) -> bool");
}

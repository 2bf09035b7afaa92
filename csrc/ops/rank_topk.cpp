// Schema of rank_topk: the k best rows of `items` (N, H) for each row of `query` (B, H), by the exact product + bias.
// exclude_* are a (B, N) CSR matrix of items not to rank; bf16: multiply in bfloat16 in the filter, the result is the
// same. Without, on the CPU, torch must multiply float32 in full (its setting "highest"). Scores and ids; -inf and -1
// where there are fewer than k.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "rank_topk(Tensor query, Tensor items, int k, Tensor? bias=None, Tensor? exclude_crow=None, "
      "Tensor? exclude_col=None, bool bf16=False) -> (Tensor, Tensor)");
}

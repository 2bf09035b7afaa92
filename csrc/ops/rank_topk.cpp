// Schema of rank_topk: the k best rows of `items` (N, H) for each row of `query` (B, H), by the exact product + bias.
// exclude_* are a (B, N) CSR matrix of items not to rank; bf16: multiply in bfloat16 in the filter, the result is the
// same. Without, on the CPU, torch must multiply float32 in full (its setting "highest"). Scores in double and ids;
// -inf and -1 where there are fewer than k.
//
// at_least (B,), float64: items that score less may be left out, which spares the work for them; not all need be. NaN:
// none may be.
//
// What is the same for all queries may be made once, by _prepare_items, and be given: filter_bias (N,) in the
// arithmetic type, the bias, but +inf where the bound of the filter does not cover an item; maxima (2, any), float64,
// largest norm and bias of the others; in_bf16 (N, H), the items in bfloat16, without elements where the filter does
// not multiply in it or they are bfloat16 already.
#include "ops/library.h"

DMREC_SCHEMAS(m) {
  m.def(
      "rank_topk(Tensor query, Tensor items, int k, Tensor? bias=None, Tensor? exclude_crow=None, "
      "Tensor? exclude_col=None, bool bf16=False, Tensor? filter_bias=None, Tensor? maxima=None, "
      "Tensor? in_bf16=None, Tensor? at_least=None) -> (Tensor, Tensor)");
  m.def("_prepare_items(Tensor items, Tensor? bias, bool bf16) -> (Tensor, Tensor, Tensor)");
}

"""Sparse interactions times a dense matrix: the first term of Eq. 6, Zhang et al., SIGIR 2025."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import embedding_bag

from .._checks import check_csr, check_like, check_tensor, fail
from ..csr import Csr


def csr_aggregate(x: Csr, dense: Tensor, bias: Tensor | None = None, *, transpose: Csr | None = None) -> Tensor:
    """Reference of `dmrec_ext.csr_aggregate`."""
    op = "csr_aggregate"
    check_tensor(op, "dense", dense, 2)
    check_csr(op, "x", x, n_cols=dense.shape[0], device=dense.device)
    if x.values is not None:
        check_like(op, "x.values", x.values, "dense", dense)
    if bias is not None:
        check_tensor(op, "bias", bias, 1 if isinstance(bias, Tensor) and bias.dim() == 1 else 2)
        check_like(op, "bias", bias, "dense", dense)
        rows, width = x.n_rows, dense.shape[1]
        if bias.shape not in ((width,), (rows, width)):
            fail(op, "bias", f"have the shape {(width,)} or {(rows, width)}", tuple(bias.shape))
    if transpose is not None:
        check_csr(op, "transpose", transpose, n_rows=x.n_cols, n_cols=x.n_rows, device=dense.device)

    if x.n_rows == 0 or dense.shape[0] == 0 or dense.shape[1] == 0:  # shapes that embedding_bag refuses
        total = (0 * dense.sum()).expand(x.n_rows, dense.shape[1])
    else:
        total = embedding_bag(x.col, dense, x.crow, mode="sum", include_last_offset=True, per_sample_weights=x.values)
    return total if bias is None else total + bias

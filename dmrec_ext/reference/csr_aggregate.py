"""Sparse interactions times a dense matrix: the first term of Eq. 6, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from .._checks import autocast_enabled, check_csr, check_like, check_tensor, fail, has_contents
from .._torch_private import transformed
from ..csr import Csr


def csr_aggregate(
    x: Csr,
    dense: Tensor,
    bias: Tensor | None = None,
    *,
    transpose: Csr | None = None,
    sparse_grad: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Reference of `dmrec_ext.csr_aggregate`.

    By torch's embedding_bag; where that is not differentiable, in torch.func and forward mode, by gathered rows.
    """
    x, bias, _, dtype = checked_aggregate_inputs(x, dense, bias, transpose, dtype)
    if dtype is not None:
        if sparse_grad and has_contents(x.col) and not transformed() and not torch.compiler.is_compiling():
            used, col = torch.unique(x.col, return_inverse=True)  # a sparse gradient cannot pass through `to`
            x, dense = x._replace(col=col), embedding(used, dense, sparse=True)
        dense = dense.to(dtype)
    if x.n_rows == 0 or dense.shape[0] == 0 or dense.shape[1] == 0:  # shapes that embedding_bag refuses
        total = (0 * dense.sum()).expand(x.n_rows, dense.shape[1])
    elif transformed():
        rows = dense[x.col] if x.values is None else dense[x.col] * x.values[:, None]
        total = dense.new_zeros(x.n_rows, dense.shape[1]).index_add(0, x.row_of_entry(), rows)
    else:
        total = embedding_bag(
            x.col,
            dense,
            x.crow,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=x.values,
            sparse=sparse_grad and dtype is None,
        )
    return total if bias is None else total + bias


def csr_dot(x: Csr, rows: Tensor, dense: Tensor) -> Tensor:
    """Reference of `dmrec_ext.csr_dot`."""
    x = checked_dot_inputs(x, rows, dense)
    products = (rows[x.row_of_entry()] * dense[x.col]).sum(1)
    return products if x.values is None else products * x.values


def checked_dot_inputs(x: Csr, rows: Tensor, dense: Tensor) -> Csr:
    """x, checked against ``rows`` and ``dense``; under autocast in the dtype of ``dense``."""
    op = "csr_dot"
    check_tensor(op, "dense", dense, 2)
    check_tensor(op, "rows", rows, 2)
    check_like(op, "rows", rows, "dense", dense)
    if rows.shape[1] != dense.shape[1]:
        fail(op, "rows", f"be as wide as dense ({dense.shape[1]})", rows.shape[1])
    check_csr(op, "x", x, n_rows=rows.shape[0], n_cols=dense.shape[0], device=dense.device, ordered=False)
    if x.values is not None:
        values = x.values.to(dense.dtype) if autocast_enabled(dense.device.type) else x.values
        check_like(op, "x.values", values, "dense", dense)
        x = x._replace(values=values)
    return x


def checked_aggregate_inputs(
    x: Csr, dense: Tensor, bias: Tensor | None, transpose: Csr | None, dtype: torch.dtype | None
) -> tuple[Csr, Tensor | None, Csr | None, torch.dtype | None]:
    """x, bias, transpose and dtype, checked against each other and ``dense``; under autocast in the result's dtype.

    That dtype is None where it is that of ``dense``.
    """
    op = "csr_aggregate"
    check_tensor(op, "dense", dense, 2)
    if dtype is not None:
        if dtype != dense.dtype and (dtype != torch.float32 or dense.dtype not in (torch.float16, torch.bfloat16)):
            fail(op, "dtype", f"be that of dense ({dense.dtype}), or float32 where that has 16 bits", dtype, TypeError)
        dtype = None if dtype == dense.dtype else dtype
    check_csr(op, "x", x, n_cols=dense.shape[0], device=dense.device)
    cast_to = (dtype or dense.dtype) if autocast_enabled(dense.device.type) else None
    if x.values is not None:
        values = x.values.to(cast_to) if cast_to else x.values
        check_like(op, "x.values", values, "dense", dense, dtype)
        x = x._replace(values=values)
    if bias is not None:
        check_tensor(op, "bias", bias, 1 if isinstance(bias, Tensor) and bias.dim() == 1 else 2)
        bias = bias.to(cast_to) if cast_to else bias
        check_like(op, "bias", bias, "dense", dense, dtype)
        rows, width = x.n_rows, dense.shape[1]
        if bias.shape not in ((width,), (rows, width)):
            fail(op, "bias", f"have the shape {(width,)} or {(rows, width)}", tuple(bias.shape))
    if transpose is not None:
        check_csr(op, "transpose", transpose, n_rows=x.n_cols, n_cols=x.n_rows, device=dense.device)
        if transpose.nnz != x.nnz:
            fail(op, "transpose", f"have as many entries as x ({x.nnz})", transpose.nnz)
        if (transpose.values is None) != (x.values is None):
            fail(op, "transpose", "have values just where x has them", "only one of them with values")
        if transpose.values is not None:
            values = transpose.values.to(cast_to) if cast_to else transpose.values
            check_like(op, "transpose.values", values, "dense", dense, dtype)
            transpose = transpose._replace(values=values)
    return x, bias, transpose, dtype

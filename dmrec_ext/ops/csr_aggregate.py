"""Sparse interactions times a dense matrix, and products at sparse places: public functions, fake kernels, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import reference
from .._library import NATIVE, runs_native
from ..csr import Csr
from ..reference.csr_aggregate import checked_aggregate_inputs, checked_dot_inputs
from ._call import call


def csr_aggregate(
    x: Csr,
    dense: Tensor,
    bias: Tensor | None = None,
    *,
    transpose: Csr | None = None,
    sparse_grad: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Sums rows of a matrix, weighted by sparse interactions: :math:`X W + b`.

    The first term of Eq. (6), Zhang et al., SIGIR 2025, :math:`W_I^T x_u + w_u`; also the first layer of a VAE
    encoder, whose input never becomes dense.

    Args:
        x: (B, N) sparse matrix; ``values`` of the dtype of the result, or None for ones.
        dense: (N, E) matrix; float32, float64, float16 or bfloat16. Rows of adjacent elements are read in place.
        bias: (E,) or (B, E), of the dtype of the result, added to the sum.
        transpose: ``x.transpose()``, if at hand, with the same values: spares the gradient of ``dense`` from forming
            it, which takes O(nnz + N). Not used where ``x.values`` wants a gradient.
        sparse_grad: give ``dense`` a gradient that is a sparse tensor with a row for each column that x has, for tables
            that are large beside a batch: ``torch.optim.SparseAdam``, ``SGD`` and ``Adagrad`` take it. It is coalesced,
            and not differentiable again; while compiling, the gradient is dense.
        dtype: dtype of the result; None for that of ``dense``. It may be float32 where ``dense`` is float16 or
            bfloat16: a large table then stays in 16 bits, and its sums are not rounded to them.

    Returns:
        (B, E) sums. An empty row of ``x`` gives the bias alone.

    Raises:
        TypeError: an argument has the wrong type, dtypes differ, or ``dtype`` does not fit ``dense``.
        ValueError: shapes do not fit, or ``x`` is not a well-formed CSR matrix.

    Note:
        On the native path 16-bit inputs are summed in float32 and rounded once, or with ``dtype`` not at all; sums run
        in the order of the entries, in runs of 256, so a row of n entries errs by some 256 + n / 256 roundings. The
        same bits for any number of threads, batch split and memory layout, gradients included: the gradient of
        ``dense`` is one pass over the transposed x that writes each of its (N, E) elements once. Gradients of values
        and bias as well, each in the dtype of its argument and differentiable again. Inside torch.func and in forward
        mode it runs on plain torch. Extra memory: the result, and for the gradient the transposed x; with ``dtype``
        the gradient of ``dense`` is a float32 (N, E) matrix before it is rounded, and plain torch copies ``dense`` to
        float32. Inside autocast values and bias take the dtype of the result.

    >>> import torch
    >>> x = Csr(torch.tensor([0, 2, 2]), torch.tensor([0, 2]), None, 3)
    >>> csr_aggregate(x, torch.tensor([[1.0], [2.0], [4.0]])).tolist()
    [[5.0], [0.0]]
    >>> table = torch.tensor([[2048.0], [2.0], [1.0]], dtype=torch.float16)
    >>> csr_aggregate(x, table).tolist(), csr_aggregate(x, table, dtype=torch.float32).tolist()
    ([[2048.0], [0.0]], [[2049.0], [0.0]])
    """
    if not runs_native("csr_aggregate", dense):
        return reference.csr_aggregate(x, dense, bias, transpose=transpose, sparse_grad=sparse_grad, dtype=dtype)
    x, bias, transpose, dtype = checked_aggregate_inputs(x, dense, bias, transpose, dtype)
    if x.values is not None and x.values.requires_grad:
        transpose = None  # its values need not be part of the graph
    if sparse_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        total: Tensor = _WithSparseGradient.apply(  # type: ignore[no-untyped-call]
            x.crow, x.col, x.values, dense, bias, dtype
        )
        return total
    transposed = (None, None, None) if transpose is None else transpose[:3]
    operator = torch.ops.dmrec_ext.csr_aggregate.default
    result: Tensor = call(operator, x.crow, x.col, x.values, dense, bias, *transposed, dtype)
    return result


def csr_dot(x: Csr, rows: Tensor, dense: Tensor) -> Tensor:
    r"""Inner products of rows of two matrices at the stored places of a sparse one, :math:`(R D^T)_{bn}` for each.

    What a sampled softmax or an edge score needs: no row is gathered into memory, and no (B, N) product is formed.

    Args:
        x: (B, N) the places; ``values``, of the dtype of ``dense``, multiply the products, None for ones. Columns may
            come in any order within a row, and repeat.
        rows: (B, E) matrix; float32, float64, float16 or bfloat16.
        dense: (N, E) matrix of the same dtype.

    Returns:
        (nnz,) products in the dtype of ``dense``, in the order of the entries.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, or ``x`` is not a well-formed CSR matrix but for the order of its columns.

    Note:
        The sampled product of a dense matrix with a dense one (SDDMM), and the gradient of the values in
        `csr_aggregate`, whose native path it shares. On it 16-bit inputs are summed in float32 and rounded once; the
        same bits for any number of threads, batch split and memory layout, gradients included. Gradients of rows,
        dense and values, each differentiable again. Extra memory: the result, and for the gradient of ``dense`` the
        transposed x. Inside torch.func and in forward mode it runs on plain torch.

    >>> import torch
    >>> x = Csr(torch.tensor([0, 2]), torch.tensor([2, 0]), None, 3)
    >>> csr_dot(x, torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).tolist()
    [3.0, 1.0]
    """
    if not runs_native("csr_aggregate", dense):
        return reference.csr_dot(x, rows, dense)
    x = checked_dot_inputs(x, rows, dense)
    products: Tensor = call(torch.ops.dmrec_ext._csr_dot.default, x.crow, x.col, rows, dense)
    return products if x.values is None else products * x.values


Transposed = tuple[Tensor, Tensor, Tensor | None]


def _transposed(crow: Tensor, col: Tensor, values: Tensor | None, n_cols: int) -> Transposed:
    t_crow, t_col, entry = torch.ops.dmrec_ext._csr_transpose(crow, col, n_cols)
    return t_crow, t_col, None if values is None else values[entry]


def _column_sums(matrix: Tensor) -> Tensor:
    """On the CPU as one sparse row of ones times the matrix: torch's own sum depends on the number of threads."""
    if matrix.device.type != "cpu":
        return matrix.sum(0)
    n_rows = matrix.shape[0]
    crow = torch.tensor([0, n_rows], device=matrix.device)
    everything = torch.arange(n_rows, device=matrix.device)
    total: Tensor = torch.ops.dmrec_ext.csr_aggregate(crow, everything, None, matrix)
    return total[0]


def _setup_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    arguments = [*inputs, *[None] * (8 - len(inputs))]
    crow, col, values, dense, bias = arguments[:5]
    of_values, of_dense = ctx.needs_input_grad[2:4]
    saved = (values if of_dense else None, dense if of_values else None)
    ctx.save_for_backward(crow, col, *saved, *arguments[5:8])
    ctx.n_arguments, ctx.n_cols, ctx.dtype_of_dense = len(inputs), dense.shape[0], dense.dtype
    ctx.one_bias_for_all = bias is not None and bias.dim() == 1


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, values, dense, t_crow, t_col, t_values = ctx.saved_tensors
    wants_values, wants_dense, wants_bias = (*ctx.needs_input_grad, False)[2:5]
    of_values = of_dense = of_bias = None
    if wants_values:
        of_values = torch.ops.dmrec_ext._csr_dot(crow, col, grad, dense)
    if wants_dense:
        t = _transposed(crow, col, values, ctx.n_cols) if t_crow is None else (t_crow, t_col, t_values)
        of_dense = torch.ops.dmrec_ext.csr_aggregate(*t, grad, None, crow, col, values)
        if grad.dtype != ctx.dtype_of_dense:
            of_dense = of_dense.to(ctx.dtype_of_dense)
    if wants_bias:
        of_bias = _column_sums(grad) if ctx.one_bias_for_all else grad
    return (None, None, of_values, of_dense, of_bias, None, None, None, None)[: ctx.n_arguments]


class _WithSparseGradient(torch.autograd.Function):
    """`csr_aggregate`, whose gradient of the dense matrix has the rows alone that x refers to."""

    @staticmethod
    def forward(
        ctx: Any,
        crow: Tensor,
        col: Tensor,
        values: Tensor | None,
        dense: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        ctx.save_for_backward(crow, col, values, dense if ctx.needs_input_grad[2] else None)
        ctx.shape, ctx.dtype_of_dense = dense.shape, dense.dtype
        ctx.one_bias_for_all = bias is not None and bias.dim() == 1
        result: Tensor = torch.ops.dmrec_ext.csr_aggregate.default(crow, col, values, dense, bias, dtype=dtype)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        crow, col, values, dense = ctx.saved_tensors
        of_values = of_dense = of_bias = None
        if ctx.needs_input_grad[2]:
            of_values = torch.ops.dmrec_ext._csr_dot(crow, col, grad, dense)
        if ctx.needs_input_grad[3]:
            used, place = torch.unique(col, return_inverse=True)
            rows = torch.ops.dmrec_ext.csr_aggregate.default(
                *_transposed(crow, place, values, used.shape[0]), grad, None
            ).to(ctx.dtype_of_dense)
            of_dense = torch.sparse_coo_tensor(used[None], rows, ctx.shape, check_invariants=False, is_coalesced=True)
        if ctx.needs_input_grad[4]:
            of_bias = _column_sums(grad) if ctx.one_bias_for_all else grad
        return None, None, of_values, of_dense, of_bias, None


def _setup_dot(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, rows, dense = ctx.saved_tensors
    of_rows = of_dense = None
    if ctx.needs_input_grad[2]:
        of_rows = torch.ops.dmrec_ext.csr_aggregate(crow, col, grad, dense, dtype=rows.dtype)
    if ctx.needs_input_grad[3]:
        of_dense = torch.ops.dmrec_ext.csr_aggregate(*_transposed(crow, col, grad, dense.shape[0]), rows)
        if rows.dtype != dense.dtype:
            of_dense = of_dense.to(dense.dtype)
    return None, None, of_rows, of_dense


def _check_devices(op: str, *tensors: Tensor | None) -> None:
    if len({tensor.device for tensor in tensors if tensor is not None}) > 1:
        raise ValueError(f"{op}: all tensors must be on one device")


def _fake_sum(
    crow: Tensor,
    col: Tensor,
    values: Tensor | None,
    dense: Tensor,
    bias: Tensor | None = None,
    t_crow: Tensor | None = None,
    t_col: Tensor | None = None,
    t_values: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    _check_devices("csr_aggregate", crow, col, values, dense, bias, t_crow, t_col, t_values)
    return dense.new_empty(crow.shape[0] - 1, dense.shape[1], dtype=dtype)


def _fake_dot(crow: Tensor, col: Tensor, rows: Tensor, dense: Tensor) -> Tensor:
    _check_devices("_csr_dot", crow, col, rows, dense)
    return rows.new_empty(col.shape[0])


def _fake_transpose(crow: Tensor, col: Tensor, n_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    return crow.new_empty(n_cols + 1), col.new_empty(col.shape[0]), col.new_empty(col.shape[0])


if NATIVE["csr_aggregate"]:
    torch.library.register_fake("dmrec_ext::csr_aggregate", _fake_sum)
    torch.library.register_fake("dmrec_ext::_csr_dot", _fake_dot)
    torch.library.register_fake("dmrec_ext::_csr_transpose", _fake_transpose)
    torch.library.register_autograd("dmrec_ext::csr_aggregate", _sum_backward, setup_context=_setup_sum)
    torch.library.register_autograd("dmrec_ext::_csr_dot", _dot_backward, setup_context=_setup_dot)

"""Residual quantization: public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .._library import NATIVE, runs_native
from .._torch_private import is_batched
from ..reference.residual_quantize import checked_quantize_inputs
from ._call import call


def residual_quantize(
    x: Tensor, codebooks: Tensor, *, beta: float = 0.25, residual_gradient: str = "all"
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Vectors as sums of one code vector of each level: the bottleneck of RQ-VAE, with straight-through gradients.

    With :math:`r_1 = x`, on each level the nearest code of what is left,

    .. math:: c_l = \arg\min_c \|r_l - C_{lc}\|^2, \quad r_{l+1} = r_l - C_{l c_l}, \quad
        \mathrm{loss} = \sum_l \|\mathrm{sg}[r_l] - C_{l c_l}\|^2 + \beta \|r_l - \mathrm{sg}[C_{l c_l}]\|^2

    Zeghidour et al., 2021; as the tokenizer of items: Rajput et al., NeurIPS 2023 (TIGER).

    Args:
        x: (B, D) vectors; float32, float64, float16 or bfloat16.
        codebooks: (L, C, D), of the same dtype.
        beta: weight of the commitment of vectors to their codes.
        residual_gradient: what the loss of levels after the first teaches: ``"all"``, the vectors; ``"full"``, codes of
            earlier levels, too; ``"first"``, neither, as in released code that subtracts the straight-through output.

    Returns:
        codes (B, L) int64; of several nearest ones the lowest. The sums of their vectors (B, D), whose gradient goes on
        to ``x``. Losses (B,), in squared units of ``x``. The latter two in the dtype of ``x``.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, there are no codes, ``beta`` is negative, or an option is unknown.

    Note:
        Distances are sums of squared differences, not differences of squares: nothing cancels, and codes do not depend
        on the batch or the number of threads. A row with a NaN has code 0 and loss NaN; no other row is touched. 16-bit
        inputs are computed with in float32. No (B, C) matrix is formed. Second derivatives on plain torch.

    >>> import torch
    >>> x, codebooks = torch.tensor([[1.0]]), torch.tensor([[[0.75], [-0.75]], [[0.2], [-0.2]]])
    >>> codes, quantized, loss = residual_quantize(x, codebooks)
    >>> codes.tolist(), round(quantized.item(), 4), round(loss.item(), 5)
    ([[0, 0]], 0.95, 0.08125)
    """
    if not runs_native("residual_quantize", x):
        return reference.residual_quantize(x, codebooks, beta=beta, residual_gradient=residual_gradient)
    x, codebooks = checked_quantize_inputs(x, codebooks, beta, residual_gradient)
    operator = torch.ops.dmrec_ext.residual_quantize.default
    quantized, loss, codes = call(operator, x, codebooks, beta, residual_gradient)
    return codes, quantized, loss


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, codebooks, ctx.beta, ctx.residual_gradient = inputs
    ctx.save_for_backward(x, codebooks, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, of_quantized: Tensor | None, of_loss: Tensor | None, of_codes: None
) -> tuple[Tensor | None, ...]:
    del of_codes
    x, codebooks, codes = ctx.saved_tensors
    wanted = [i for i in range(2) if ctx.needs_input_grad[i]]
    if not wanted or (of_quantized is None and of_loss is None):
        return None, None, None, None
    given = [grad for grad in (of_quantized, of_loss) if grad is not None]
    if torch.is_grad_enabled() or any(map(is_batched, given)):  # create_graph=True, is_grads_batched=True
        with torch.enable_grad():
            leaves = [t.view_as(t) for t in (x, codebooks)]
            options = {"beta": ctx.beta, "residual_gradient": ctx.residual_gradient}
            _, quantized, loss = reference.residual_quantize(*leaves, **options)
        outputs = [out for out, grad in ((quantized, of_quantized), (loss, of_loss)) if grad is not None]
        inputs = [leaves[i] for i in wanted]
        gradients = torch.autograd.grad(
            outputs, inputs, given, create_graph=torch.is_grad_enabled(), allow_unused=True, materialize_grads=True
        )
    else:
        begin, rows = _rows_by_code(codes, codebooks.shape[1])
        gradients = torch.ops.dmrec_ext._residual_quantize_backward.default(
            of_quantized,
            of_loss,
            x,
            codebooks,
            codes,
            begin,
            rows,
            ctx.beta,
            ctx.residual_gradient,
            sum(1 << i for i in wanted),
        )
    result: list[Tensor | None] = [None] * 4
    for i, gradient in zip(wanted, gradients, strict=True):
        result[i] = gradient
    return tuple(result)


def _rows_by_code(codes: Tensor, n_codes: int) -> tuple[Tensor, Tensor]:
    """Where the rows of each code begin (L, C + 1), and the rows sorted by code (L, B), in order within one."""
    n_rows, levels = codes.shape
    by_level = codes.T.contiguous()
    every_row = torch.arange(n_rows + 1, device=codes.device)
    sorted_ = [torch.ops.dmrec_ext._csr_transpose(every_row, by_level[level], n_codes) for level in range(levels)]
    if not sorted_:
        return codes.new_zeros(0, n_codes + 1), codes.new_zeros(0, n_rows)
    return torch.stack([each[0] for each in sorted_]), torch.stack([each[1] for each in sorted_])


def _fake(x: Tensor, codebooks: Tensor, beta: float, residual_gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    x, codebooks = checked_quantize_inputs(x, codebooks, beta, residual_gradient)
    codes = x.new_empty(x.shape[0], codebooks.shape[0], dtype=torch.int64)
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.shape[0]), codes


def _fake_backward(
    grad_quantized: Tensor | None, grad_loss: Tensor | None, x: Tensor, codebooks: Tensor, *others: Any
) -> list[Tensor]:
    needed = others[-1]
    of = [torch.empty_like(x, memory_format=torch.contiguous_format)] if needed & 1 else []
    return of + ([torch.empty_like(codebooks, memory_format=torch.contiguous_format)] if needed & 2 else [])


if NATIVE["residual_quantize"]:
    torch.library.register_fake("dmrec_ext::residual_quantize", _fake)
    torch.library.register_fake("dmrec_ext::_residual_quantize_backward", _fake_backward)
    torch.library.register_autograd("dmrec_ext::residual_quantize", _backward, setup_context=_setup)

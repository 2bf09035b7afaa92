"""Fake kernels and autograd of row operators: (B, D) tensors in, one value per row out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._library import NATIVE


def register_row_operator(
    stem: str,
    *,
    n_inputs: int,
    fake: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    backward_operator: Callable[[Tensor, tuple[Tensor, ...], int], list[Tensor]],
) -> None:
    """Completes the operator ``stem`` of the native library, if it is loaded.

    ``backward_operator(grad, rows, needed)`` returns the gradients whose bits are set in ``needed``. Where the graph
    of the gradient itself is wanted, it is built from ``reference`` instead: right, if slower.
    """
    if not NATIVE[stem]:
        return

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*(value for value in inputs[:n_inputs] if value is not None))

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows: tuple[Tensor, ...] = ctx.saved_tensors
        wanted = [i for i in range(len(rows)) if ctx.needs_input_grad[i]]
        if torch.is_grad_enabled():  # create_graph=True
            # views: inputs that depend on each other, or are one tensor, must each get their own part alone
            apart = [row.view_as(row) for row in rows]
            inputs = [apart[i] for i in wanted]
            gradients = list(torch.autograd.grad(reference(*apart), inputs, grad, create_graph=True))
        else:
            gradients = backward_operator(grad, rows, sum(1 << i for i in wanted))
        result: list[Tensor | None] = [None] * n_inputs
        for i, gradient in zip(wanted, gradients, strict=True):
            result[i] = gradient
        return tuple(result)

    def fake_backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
        *rows, needed = arguments
        return [torch.empty_like(rows[0], memory_format=torch.contiguous_format) for _ in range(needed.bit_count())]

    torch.library.register_fake(f"dmrec_ext::{stem}", fake)
    torch.library.register_fake(f"dmrec_ext::_{stem}_backward", fake_backward)
    torch.library.register_autograd(f"dmrec_ext::{stem}", backward, setup_context=setup_context)

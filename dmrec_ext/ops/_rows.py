"""Fake kernels and autograd of row operators: (B, D) tensors and options in, one value per row out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._library import NATIVE
from .._torch_private import AutoDispatchBelowAutograd, is_batched, is_jit_tracing

BackwardOperator = Callable[[Tensor, Tensor | None, list[Tensor], tuple[Any, ...], int], list[Tensor]]


def register_row_operator(
    stem: str,
    *,
    n_inputs: int,
    fake: Callable[..., Tensor | tuple[Tensor, Tensor]],
    reference: Callable[..., Tensor],
    backward_operator: BackwardOperator,
    saves_value: bool = False,
) -> Callable[..., Any]:
    """Completes the operator ``stem`` of the native library, if it is loaded, and returns a function that calls it.

    The operator takes ``n_inputs`` tensors (None for what is left out) and then its options, all by position; so do
    ``fake``, ``reference`` and the returned function. ``backward_operator(grad, value, rows, options, needed)`` returns
    the gradients whose bits are set in ``needed``; ``value`` is the (last) result of the forward where ``saves_value``.
    Where the graph of the gradient itself is wanted, it is built from ``reference`` instead: right, if slower.

    The same autograd is attached twice: to the operator, for whoever calls or traces ``torch.ops``; and, for eager
    calls, as a `torch.autograd.Function` around it, which spares them half of the 60 microseconds that torch's generic
    wrapper takes.
    """
    if not NATIVE[stem]:
        return _absent

    operator = getattr(torch.ops.dmrec_ext, stem).default

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        rows = [value for value in inputs[:n_inputs] if value is not None]
        value = output[-1] if isinstance(output, tuple) else output
        ctx.save_for_backward(*rows, value if saves_value else None)
        ctx.inputs = inputs[n_inputs:], len(inputs)

    def backward(ctx: Any, grad: Tensor, *of_value: Tensor) -> tuple[Tensor | None, ...]:
        del of_value  # a second result only serves the backward
        *rows, value = ctx.saved_tensors
        options, n_arguments = ctx.inputs
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[: len(rows)]) if needed]
        if torch.is_grad_enabled() or is_batched(grad):  # create_graph=True, is_grads_batched=True
            # views: inputs that depend on each other, or are one tensor, must each get their own part alone
            with torch.enable_grad():
                apart = [row.view_as(row) for row in rows]
            inputs = [apart[i] for i in wanted]
            with torch.enable_grad():
                loss = reference(*apart, *options)
            gradients = list(torch.autograd.grad(loss, inputs, grad, create_graph=torch.is_grad_enabled()))
        else:
            gradients = backward_operator(grad, value, rows, options, sum([1 << i for i in wanted]))
        result: list[Tensor | None] = [None] * n_arguments
        for i, gradient in zip(wanted, gradients, strict=True):
            result[i] = gradient
        return tuple(result)

    def fake_backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
        first = next((value for value in arguments if isinstance(value, Tensor) and value.dim() == 2), None)
        if first is None:
            raise ValueError(f"{stem}: inputs must be matrices")
        needed: int = arguments[-1]
        return [torch.empty_like(first, memory_format=torch.contiguous_format) for _ in range(needed.bit_count())]

    def forward(*arguments: Any) -> Tensor | tuple[Tensor, ...]:
        with AutoDispatchBelowAutograd():
            result: Tensor | tuple[Tensor, ...] = operator(*arguments)
        return result

    members: dict[str, Any] = {"forward": forward, "setup_context": setup_context, "backward": backward}
    eager = type(stem, (torch.autograd.Function,), {name: staticmethod(f) for name, f in members.items()})

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or is_jit_tracing() or not torch.is_grad_enabled():
            return operator(*arguments)
        return eager.apply(*arguments)  # type: ignore[attr-defined]

    torch.library.register_fake(f"dmrec_ext::{stem}", fake)
    torch.library.register_fake(f"dmrec_ext::_{stem}_backward", fake_backward)
    torch.library.register_autograd(f"dmrec_ext::{stem}", backward, setup_context=setup_context)
    return call


def _absent(*arguments: Any) -> Any:
    raise RuntimeError("the native library is not loaded")

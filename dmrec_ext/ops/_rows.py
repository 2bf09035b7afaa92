"""Fake kernels and autograd of row operators: (B, D) tensors and options in, one value per row out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._library import NATIVE
from .._torch_private import AutoDispatchBelowAutograd, is_batched, is_jit_tracing


def on_rows(call: Callable[..., Any], rows: list[Tensor], *options: object) -> Any:
    """What a row operator gives for (.., D) tensors of one shape: it takes matrices and gives one value per row."""
    shape = rows[0].shape
    if len(shape) == 2:
        return call(*rows, *options)
    n_rows = math.prod(shape[:-1])
    result = call(*(value.reshape(n_rows, shape[-1]) for value in rows), *options)
    if isinstance(result, tuple):
        return (result[0].reshape(shape[:-1]), *result[1:])
    return result.reshape(shape[:-1])


def register_row_operator(
    stem: str,
    reference: Callable[..., Tensor],
    *,
    saves_value: bool = False,
    fake: Callable[..., tuple[Tensor, ...]] | None = None,
) -> Callable[..., Any]:
    """Completes the operator ``stem`` of the native library, if it is loaded, and returns a function that calls it.

    The signature of ``reference`` is the only list of parameters: the operator takes the same ones, in the same order
    and all by position. Those before the ``*`` are (B, D) tensors, or None; those behind it are options. So

    - the fake kernel is the reference, which checks its arguments and gives shape and dtype, or ``fake`` where the
      operator has a second result;
    - the backward calls ``_<stem>_backward(grad, [value,] *inputs, *options, needed)``, which returns the gradients
      whose bits are set in ``needed``; ``value`` is the (last) result of the forward, where ``saves_value``;
    - where the graph of the gradient itself is wanted, it is built from the reference: right, if slower.

    The same autograd is attached twice: to the operator, for whoever calls or traces ``torch.ops``; and, for eager
    calls, as a `torch.autograd.Function` around it, which spares them half of the 60 microseconds that torch's generic
    wrapper takes.
    """
    if not NATIVE[stem]:
        return _absent

    operator = getattr(torch.ops.dmrec_ext, stem).default
    backward_operator = getattr(torch.ops.dmrec_ext, f"_{stem}_backward").default
    n_inputs, defaults = _parameters(reference)
    equation = by_position(reference)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        value = output[-1] if isinstance(output, tuple) else output
        ctx.save_for_backward(*inputs[:n_inputs], value if saves_value else None)
        ctx.options, ctx.n_arguments = inputs[n_inputs:], len(inputs)

    def backward(ctx: Any, grad: Tensor, *of_value: Tensor) -> tuple[Tensor | None, ...]:
        del of_value  # a second result only serves the backward
        *rows, value = ctx.saved_tensors
        options = ctx.options
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[: len(rows)]) if needed]
        if torch.is_grad_enabled() or is_batched(grad):  # create_graph=True, is_grads_batched=True
            # views: inputs that depend on each other, or are one tensor, must each get their own part alone
            with torch.enable_grad():
                apart = [None if row is None else row.view_as(row) for row in rows]
                loss = equation(*apart, *options)
            inputs = [row for i in wanted if (row := apart[i]) is not None]
            gradients = list(torch.autograd.grad(loss, inputs, grad, create_graph=torch.is_grad_enabled()))
        else:
            saved = [value] if saves_value else []
            rows += [None] * (n_inputs - len(rows))  # what was left out at the end
            needed = sum([1 << i for i in wanted])
            gradients = backward_operator(grad, *saved, *rows, *options, *defaults[len(options) :], needed)
        result: list[Tensor | None] = [None] * ctx.n_arguments
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

    torch.library.register_fake(f"dmrec_ext::{stem}", fake or equation)
    torch.library.register_fake(f"dmrec_ext::_{stem}_backward", fake_backward)
    torch.library.register_autograd(f"dmrec_ext::{stem}", backward, setup_context=setup_context)
    return call


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """What elements of a dtype are computed in, and numbers are kept in for the backward."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def by_position(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` with its keyword-only options by position too, as operators take them; the last may be left out."""
    n_inputs, _ = _parameters(function)
    names = list(inspect.signature(function).parameters)[n_inputs:]

    def call(*arguments: Any) -> Tensor:
        return function(*arguments[:n_inputs], **dict(zip(names, arguments[n_inputs:], strict=False)))

    return call


def _parameters(function: Callable[..., Tensor]) -> tuple[int, tuple[Any, ...]]:
    """How many inputs a function takes, and the defaults of its options."""
    parameters = inspect.signature(function).parameters.values()
    options = [parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    return len(parameters) - len(options), tuple(options)


def _absent(*arguments: Any) -> Any:
    raise RuntimeError("the native library is not loaded")

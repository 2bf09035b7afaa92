"""Fake kernels and autograd of row operators: (B, D) tensors and options in, one value per row out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import has_contents
from .._library import NATIVE
from .._torch_private import AutoDispatchBelowAutograd, is_batched, is_jit_tracing
from ..reference.reduction import check_reduction, reduce_rows
from ._call import wants_gradient


class RowOperator:
    """A row operator on (.., D) tensors: one value per row, their mean or their sum, times a weight."""

    def __init__(self, stem: str, of_rows: Callable[..., Any], reduced: Callable[..., Tensor]) -> None:
        self._stem, self._of_rows, self._reduced = stem, of_rows, reduced

    def __call__(self, rows: list[Tensor], options: tuple[Any, ...], reduction: str, weight: float) -> Tensor:
        """What ``reduction`` asks for, of tensors of one shape."""
        check_reduction(self._stem, reduction, weight)
        shape = rows[0].shape
        if len(shape) != 2:
            rows = [value.reshape(math.prod(shape[:-1]), shape[-1]) for value in rows]
        if reduction == "none" or torch.compiler.is_compiling() or is_jit_tracing():
            result = self._of_rows(*rows, *options)
            values: Tensor = result[0] if isinstance(result, tuple) else result
            return reduce_rows(values.reshape(shape[:-1]), reduction, weight)
        n_rows = rows[0].shape[0]
        share = 1.0 if reduction == "sum" else 1.0 / n_rows if n_rows else math.nan
        return self._reduced(rows, options, weight * share)


def register_row_operator(
    stem: str,
    reference: Callable[..., Tensor],
    *,
    saves_value: bool = False,
    fake: Callable[..., tuple[Tensor, ...]] | None = None,
    encode: Callable[..., tuple[Any, ...]] | None = None,
) -> RowOperator:
    """Completes the operator ``stem`` of the native library, if it is loaded, and returns what calls it.

    The signature of ``reference`` is the only list of parameters: the operator takes the same ones, in the same order
    and all by position, but for ``reduction`` and ``weight``. Those before the ``*`` are (B, D) tensors, or None; those
    behind it are options. So

    - the fake kernel is the reference, which checks its arguments and gives shape and dtype, or ``fake`` where the
      operator has a second result;
    - the backward calls ``_<stem>_backward(grad, [value,] *inputs, *options, needed)``, which returns the gradients
      whose bits are set in ``needed``; ``value`` is the (last) result of the forward, where ``saves_value``;
    - where the graph of the gradient itself is wanted, it is built from the reference: right, if slower.

    ``_<stem>_reduced(*inputs, *options, scale, needed)`` returns ``scale`` times the sum over rows, with those of its
    gradients whose bits are set in ``needed``: the backward hands them on, and multiplies them first where the gradient
    that comes in is not 1. ``encode(*options)`` makes the options that it takes, where they are others.

    The same autograd is attached twice: to the operator, for whoever calls or traces ``torch.ops``; and, for eager
    calls, as a `torch.autograd.Function` around it, which spares them half of the 60 microseconds that torch's generic
    wrapper takes.
    """
    if not NATIVE[stem]:
        return RowOperator(stem, _absent, _absent)

    operator = getattr(torch.ops.dmrec_ext, stem).default
    backward_operator = getattr(torch.ops.dmrec_ext, f"_{stem}_backward").default
    reduced_operator = getattr(torch.ops.dmrec_ext, f"_{stem}_reduced").default
    n_inputs, defaults = _parameters(reference)
    encoded = encode or _as_they_are
    equation = by_position(reference)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        value = output[-1] if isinstance(output, tuple) else output
        ctx.save_for_backward(*inputs[:n_inputs], value if saves_value else None)
        ctx.options, ctx.n_arguments = inputs[n_inputs:], len(inputs)

    def of_equation(
        rows: Sequence[Tensor | None], options: Any, wanted: list[int], grad: Tensor, scale: float | None = None
    ) -> list[Tensor]:
        # views: inputs that depend on each other, or are one tensor, must each get their own part alone
        with torch.enable_grad():
            apart = [None if row is None else row.view_as(row) for row in rows]
            loss = equation(*apart, *options)
            if scale is not None:
                loss = scale * loss.sum()
        inputs = [row for i in wanted if (row := apart[i]) is not None]
        return list(torch.autograd.grad(loss, inputs, grad, create_graph=torch.is_grad_enabled()))

    def backward(ctx: Any, grad: Tensor, *of_value: Tensor) -> tuple[Tensor | None, ...]:
        del of_value  # a second result only serves the backward
        *rows, value = ctx.saved_tensors
        options = ctx.options
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[: len(rows)]) if needed]
        if torch.is_grad_enabled() or is_batched(grad):  # create_graph=True, is_grads_batched=True
            gradients = of_equation(rows, options, wanted, grad)
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
        if torch.compiler.is_compiling() or is_jit_tracing():
            return operator(*arguments)
        if wants_gradient(arguments[:n_inputs]):
            return eager.apply(*arguments)  # type: ignore[attr-defined]
        return forward(*arguments)

    class Reduced(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, options: tuple[Any, ...], scale: float, *rows: Tensor | None) -> Tensor:
            wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
            needed = sum([1 << i for i in wanted])
            with AutoDispatchBelowAutograd():
                value: Tensor
                value, *ctx.gradients = reduced_operator(*rows, *encoded(*options), scale, needed)
            ctx.save_for_backward(*rows)
            ctx.wanted, ctx.options, ctx.scale = wanted, options, scale
            return value

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            wanted = ctx.wanted
            if torch.is_grad_enabled() or is_batched(grad):
                gradients = of_equation(ctx.saved_tensors, ctx.options, wanted, grad, ctx.scale)
            else:
                gradients, ctx.gradients = ctx.gradients, None  # they become the caller's
                if gradients is None:  # a second time through the graph
                    needed = sum([1 << i for i in wanted])
                    gradients = reduced_operator(*ctx.saved_tensors, *encoded(*ctx.options), ctx.scale, needed)[1:]
                # on a GPU, asking would wait for it; a tensor without contents has no answer
                if not (grad.is_cpu and has_contents(grad) and grad.item() == 1.0):
                    torch.ops.dmrec_ext._multiply_unless_one_(gradients, grad)
            if len(wanted) == n_inputs:
                return (None, None, *gradients)
            result: list[Tensor | None] = [None] * (2 + n_inputs)
            for i, gradient in zip(wanted, gradients, strict=True):
                result[2 + i] = gradient
            return tuple(result)

    def reduced(rows: list[Tensor], options: tuple[Any, ...], scale: float) -> Tensor:
        inputs = rows if len(rows) == n_inputs else [*rows, *[None] * (n_inputs - len(rows))]
        if wants_gradient(rows):
            result: Tensor = Reduced.apply(options, scale, *inputs)  # type: ignore[no-untyped-call]
        else:
            result = reduced_operator(*inputs, *encoded(*options), scale, 0)[0]
        return result

    def fake_reduced(*arguments: Any) -> list[Tensor]:
        first: Tensor = arguments[0]
        gradients = fake_backward(first, *arguments)
        return [first.new_empty(()), *gradients]

    torch.library.register_fake(f"dmrec_ext::{stem}", fake or equation)
    torch.library.register_fake(f"dmrec_ext::_{stem}_reduced", fake_reduced)
    torch.library.register_fake(f"dmrec_ext::_{stem}_backward", fake_backward)
    torch.library.register_autograd(f"dmrec_ext::{stem}", backward, setup_context=setup_context)
    return RowOperator(stem, call, reduced)


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
    """How many inputs a function takes, and the defaults of the options that its operator takes."""
    parameters = inspect.signature(function).parameters.values()
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    defaults = tuple(p.default for p in options if p.name not in ("reduction", "weight"))
    return len(parameters) - len(options), defaults


def _as_they_are(*options: Any) -> tuple[Any, ...]:
    return options


def _absent(*arguments: Any) -> Any:
    raise RuntimeError("the native library is not loaded")


def _fake_multiply(values: list[Tensor], factor: Tensor) -> None:
    pass


if any(NATIVE.values()):
    torch.library.register_fake("dmrec_ext::_multiply_unless_one_", _fake_multiply)

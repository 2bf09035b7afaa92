"""One contender of one workload: timed by pytest-benchmark, its memory traced once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .memory import peak_bytes

_made: dict[tuple[Any, str], Any] = {}  # a contender is made once: compilation is not what is measured


def race(
    benchmark: Any,
    group: str,
    contender: str,
    number: int,
    step: Callable[[], Any],
    rounds: int,
    warmup_rounds: int = 5,
) -> None:
    """Times ``step()`` as ``contender`` of ``group``, in pass ``number``; in the first pass its memory as well."""
    benchmark.group = group
    benchmark.extra_info.update(contender=contender, number=number)
    step()
    if number == 0:
        benchmark.extra_info["peak_bytes"] = peak_bytes(step)
    benchmark.pedantic(step, rounds=rounds, warmup_rounds=warmup_rounds)


def row_race(
    benchmark: Any,
    name: str,
    contenders: dict[str, Any],
    contender: str,
    workload: str,
    size: tuple[int, int],
    number: int,
    passes: int = 12,
) -> None:
    """Races ``contenders[contender]()`` on four (B, D) inputs.

    They return a value a row, or one. ``"floor"`` copies as many bytes as ``passes`` over a (B, D) tensor move.
    """
    key = (name, contender)
    if key not in _made:
        _made[key] = contenders[contender]() if contenders[contender] else None
    step = _copy(size, passes) if _made[key] is None else _forward_and_backward(_made[key], size)
    race(benchmark, f"{name} forward+backward, {workload}", contender, number, step, 200 if size[0] < 4096 else 20)


def _forward_and_backward(function: Callable[..., Tensor], size: tuple[int, int]) -> Callable[[], None]:
    inputs = [torch.randn(size, requires_grad=True) for _ in range(4)]
    grad = torch.rand(size[0])

    def step() -> None:
        result = function(*inputs)
        torch.autograd.grad(result, inputs, grad if result.ndim else None)

    return step


def _copy(size: tuple[int, int], passes: int) -> Callable[[], None]:
    source = torch.randn(passes // 2, *size)
    target = torch.empty_like(source)

    def step() -> None:
        target.copy_(source)

    return step

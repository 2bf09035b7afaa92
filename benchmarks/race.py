"""One contender of one workload: a forward and a backward of a row operator, or the copy that is its floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_made: dict[tuple[Any, str], Any] = {}  # a contender is made once: compilation is not what is measured


def row_race(
    benchmark: Any,
    name: str,
    contenders: dict[str, Any],
    contender: str,
    workload: str,
    size: tuple[int, int],
    number: int,
) -> None:
    """Times ``contenders[contender]()`` on four (B, D) inputs; ``"floor"`` copies as many bytes as 12 passes move."""
    benchmark.group = f"{name} forward+backward, {workload}"
    benchmark.extra_info.update(contender=contender, number=number)
    key = (name, contender)
    if key not in _made:
        _made[key] = contenders[contender]() if contenders[contender] else None
    step = _copy(size) if _made[key] is None else _forward_and_backward(_made[key], size)
    benchmark.pedantic(step, rounds=200 if size[0] < 4096 else 20, warmup_rounds=5)


def _forward_and_backward(function: Callable[..., Tensor], size: tuple[int, int]) -> Callable[[], None]:
    inputs = [torch.randn(size, requires_grad=True) for _ in range(4)]
    grad = torch.rand(size[0])

    def step() -> None:
        torch.autograd.grad(function(*inputs), inputs, grad)

    return step


def _copy(size: tuple[int, int]) -> Callable[[], None]:
    source = torch.randn(6, *size)
    target = torch.empty_like(source)

    def step() -> None:
        target.copy_(source)

    return step

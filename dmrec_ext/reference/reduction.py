"""From one value per row to what is asked for: all of them, their mean or their sum, times a weight."""

from __future__ import annotations

from torch import Tensor

from .._checks import check_choice, fail

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(op: str, reduction: str, weight: float) -> None:
    """``reduction`` is known and ``weight`` is a number."""
    check_choice(op, "reduction", reduction, REDUCTIONS)
    if not isinstance(weight, (int, float)):
        fail(op, "weight", "be a number", type(weight).__name__, TypeError)


def reduce_rows(values: Tensor, reduction: str, weight: float) -> Tensor:
    """``values`` of rows, reduced and multiplied by ``weight``."""
    result = values if reduction == "none" else values.mean() if reduction == "mean" else values.sum()
    return result if weight == 1 else weight * result

"""EASE (Steck, WWW 2019): the linear item-item model with zero diagonal, in closed form.

B = I - P diag(1 / diag P) with P = (X^T X + lambda I)^{-1}; a user's scores are x B. Exact, solved in float64: O(N^3)
time and O(N^2) memory.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..base import ModelConfig, Scorer, TrainingData, register
from .item_item import ItemItem, Search, gram_of, inverse, too_many


@register
class EaseConfig(ModelConfig):
    """EASE; lambda is chosen on validation."""

    kind: Literal["ease"] = "ease"
    unsharded: ClassVar[str | None] = "its matrix has a row and a column for each item"
    is_random: ClassVar[bool] = False
    regularisation: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (10, 30, 100, 200, 300, 500, 1000, 3000), min_length=1, description="lambdas to try"
    )

    def refusal(self, n_users: int, n_items: int) -> str | None:
        """Refuses catalogues whose item-item matrix does not fit into memory."""
        del n_users
        return too_many("EASE", n_items)

    def build(self, data: TrainingData) -> Ease:
        """The model, not fitted."""
        return Ease(data.n_items, self.regularisation)


class Ease(ItemItem):
    """Linear item-item model."""

    def __init__(self, n_items: int, regularisation: tuple[float, ...]) -> None:
        super().__init__(n_items)
        self.regularisation = regularisation

    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Solves for each lambda and keeps the one with the best score; returns ``{"regularisation": lambda}``."""
        gram, search = gram_of(data.interactions), Search(self, score)
        for regularisation in self.regularisation:
            search.add(solve(gram, regularisation), regularisation=regularisation)
        return search.end()


def solve(gram: np.ndarray, regularisation: float) -> Tensor:
    """B (N, N) float32 for one lambda, from X^T X (N, N) float64, which is not changed."""
    lower = inverse(gram, regularisation)
    weights = np.tril(lower).astype(np.float32)
    weights += np.tril(lower, -1).T.astype(np.float32)
    weights /= -lower.diagonal().astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return torch.from_numpy(weights)

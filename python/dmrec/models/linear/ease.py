"""EASE (Steck, WWW 2019): the linear item-item model with zero diagonal, in closed form.

B = I - P diag(1 / diag P) with P = (X^T X + lambda I)^{-1}; a user's scores are x B. Exact, solved in float64: O(N^3)
time and O(N^2) memory.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import scipy.linalg
import torch
from pydantic import Field
from torch import Tensor

from dmrec_ext import Csr, csr_aggregate, rank_scores

from ..base import ClosedFormModel, ModelConfig, Scorer, TrainingData, UserBatch, register

MAX_ITEMS = 20_000  # the N x N matrix is held three times in float64: about 10 GB


@register
class EaseConfig(ModelConfig):
    """EASE; lambda is chosen on validation."""

    kind: Literal["ease"] = "ease"
    is_random: ClassVar[bool] = False
    regularisation: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (10, 30, 100, 200, 300, 500, 1000, 3000), min_length=1, description="lambdas to try"
    )

    def refusal(self, n_users: int, n_items: int) -> str | None:
        """Refuses catalogues whose item-item matrix does not fit into memory."""
        if n_items <= MAX_ITEMS:
            return None
        return f"EASE inverts an items x items matrix: {n_items} items are too many (limit {MAX_ITEMS})"

    def build(self, data: TrainingData) -> Ease:
        """The model, not fitted."""
        return Ease(data.n_items, self.regularisation)


class Ease(ClosedFormModel):
    """Linear item-item model."""

    weights: Tensor  # (N, N) float32, B

    def __init__(self, n_items: int, regularisation: tuple[float, ...]) -> None:
        super().__init__()
        self.regularisation = regularisation
        self.register_buffer("weights", torch.empty(n_items, n_items))  # costs no memory until it is filled

    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Solves for each lambda and keeps the one with the best score; returns ``{"regularisation": lambda}``."""
        interactions = data.interactions.to_scipy()
        gram = np.asarray((interactions.T @ interactions).astype(np.float64).todense())
        best: tuple[float, float, Tensor] | None = None
        for regularisation in self.regularisation:
            self.weights = solve(gram, regularisation)
            value = score(self, regularisation=regularisation)
            if best is None or value > best[0]:
                best = (value, regularisation, self.weights)
        assert best is not None, "the options name a lambda"
        self.weights = best[2]
        return {"regularisation": best[1]}

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items with the highest scores x B."""
        return rank_scores(self.item_scores(batch), k, exclude=exclude)

    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N): x B."""
        return csr_aggregate(batch.interactions, self.weights)


def solve(gram: np.ndarray, regularisation: float) -> Tensor:
    """B (N, N) float32 for one lambda, from X^T X (N, N) float64, which is not changed."""
    work = gram.copy(order="F")
    np.fill_diagonal(work, work.diagonal() + regularisation)
    factor, failed = scipy.linalg.lapack.dpotrf(work, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError(f"EASE: X^T X + {regularisation} I is not positive definite")
    lower, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    weights = np.tril(lower).astype(np.float32)
    weights += np.tril(lower, -1).T.astype(np.float32)
    weights /= -lower.diagonal().astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return torch.from_numpy(weights)

"""What linear item-item models share: a user's scores are x B, with B (N, N) from an inverse of the Gram matrix."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from dmrec_ext import Csr, csr_aggregate, rank_scores

from ..base import ClosedFormModel, Scorer, TrainingData, UserBatch

MAX_ITEMS = 20_000  # N x N matrices are held three times in float64: about 10 GB


def too_many(name: str, n_items: int) -> str | None:
    """Why a catalogue cannot be used; None if it can."""
    if n_items <= MAX_ITEMS:
        return None
    return f"{name} inverts an items x items matrix: {n_items} items are too many (limit {MAX_ITEMS})"


class ItemItem(ClosedFormModel):
    """Ranks by x B."""

    weights: Tensor  # (N, N) float32, B

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.empty(n_items, n_items))  # costs no memory until it is filled

    @abstractmethod
    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Sets ``weights``."""

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items with the highest scores x B."""
        return rank_scores(self.item_scores(batch), k, exclude=exclude)

    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N): x B."""
        return csr_aggregate(batch.interactions, self.weights)


class Search:
    """Keeps the weights with the best score of a model."""

    def __init__(self, model: ItemItem, score: Scorer) -> None:
        self.model, self.score = model, score
        self.best: tuple[float, dict[str, Any], Tensor] | None = None

    def add(self, weights: Tensor, **settings: float) -> None:
        """Scores ``weights`` (N, N), which were made with ``settings``."""
        self.model.weights = weights
        value = self.score(self.model, **settings)
        if self.best is None or value > self.best[0]:
            self.best = (value, settings, weights)

    def end(self) -> dict[str, Any]:
        """Leaves the model with the best weights; returns their settings."""
        assert self.best is not None, "the options name something to try"
        self.model.weights = self.best[2]
        return self.best[1]


def gram_of(interactions: Csr) -> np.ndarray:
    """X^T X (N, N) float64."""
    matrix = interactions.to_scipy()
    return np.asarray((matrix.T @ matrix).astype(np.float64).todense())


def inverse(gram: np.ndarray, regularisation: float) -> np.ndarray:
    """(X^T X + lambda I)^{-1} (N, N) float64 in column order, of which the lower triangle is filled; ``gram`` stays."""
    work = gram.copy(order="F")
    np.fill_diagonal(work, work.diagonal() + regularisation)
    factor, failed = scipy.linalg.lapack.dpotrf(work, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError(f"X^T X + {regularisation} I is not positive definite")
    lower, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    return np.asarray(lower)

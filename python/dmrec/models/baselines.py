"""Two baselines that no neural model may hide from: popularity and EASE."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from dmrec_ext import Csr, csr_aggregate, rank_scores, rank_topk

from .registry import ModelConfig, register


@register
class PopularityConfig(ModelConfig):
    """Ranks items by their number of training interactions."""

    kind: Literal["popularity"] = "popularity"


@register
class EaseConfig(ModelConfig):
    """EASE; lambda is chosen on validation."""

    kind: Literal["ease"] = "ease"
    regularisation: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (10, 30, 100, 200, 300, 500, 1000, 3000), min_length=1, description="lambdas to try"
    )


def is_closed_form(config: ModelConfig) -> bool:
    """Whether the model needs no training loop, and nothing random."""
    return isinstance(config, PopularityConfig | EaseConfig)


class Popularity:
    """Ranks items by their number of training interactions, the same for everybody."""

    def __init__(self, train: sp.csr_matrix) -> None:
        counts = np.bincount(train.indices, minlength=train.shape[1])
        self.scores = torch.from_numpy(counts.astype(np.float32))

    def rank(self, x: Csr, users: Tensor, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The k most popular items, as the product of ones with their counts: no score per user and item is formed."""
        del x
        return rank_topk(torch.ones(len(users), 1), self.scores[:, None], k, exclude=exclude)

    def rank_new(self, x: Csr, vectors: Tensor | None, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The same for anybody."""
        del vectors
        return self.rank(x, torch.arange(x.n_rows), k, exclude)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"scores": self.scores}


class Ease:
    """EASE (Steck, WWW 2019): the linear item-item model with zero diagonal, in closed form.

    B = I - P diag(1 / diag P), P = (X^T X + lambda I)^{-1}. Exact, in float64; time O(N^3), memory O(N^2).
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights  # (N, N) float32

    @staticmethod
    def gram(train: sp.csr_matrix) -> np.ndarray:
        """X^T X, (N, N) float64: the same for every lambda."""
        return np.asarray((train.T @ train).astype(np.float64).todense())

    @classmethod
    def fit(cls, gram: np.ndarray, regularisation: float) -> Ease:
        """Solves for one lambda; ``gram`` is left as it is."""
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
        return cls(torch.from_numpy(weights))

    def rank(self, x: Csr, users: Tensor, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The k items of highest X B."""
        del users
        return rank_scores(csr_aggregate(x, self.weights), k, exclude=exclude)

    def rank_new(self, x: Csr, vectors: Tensor | None, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The same: it asks for no user."""
        del vectors
        return self.rank(x, torch.arange(x.n_rows), k, exclude)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"weights": self.weights}

"""An ensemble: the weighted sum of the scores of trained models.

With s_m(u, i) the score that model m gives item i for user u, items are ranked by

    sum_m w_m (s_m(u, i) - mean_j s_m(u, j)) / std_j s_m(u, j),    w_m >= 0,  sum_m w_m = 1,

the mean and the deviation being over all items: scores of different kinds (logarithms of probabilities, counts) and of
users with long and short histories become alike. A model that gives a user all items the same score adds nothing.

The weights are chosen on validation. The models join in the order of their own validation scores; each is given the
share in `SHARES` of the whole with the best score, 0 included, and the others keep the rest.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dmrec_ext import Csr, rank_scores

from .base import ClosedFormModel, Member, OfRuns, Scorer, TrainingData, UserBatch, register

SHARES = (0.02, 0.05, *(tenths / 10 for tenths in range(1, 10)), 0.95, 0.98)


@register
class EnsembleConfig(OfRuns):
    """An ensemble of runs."""

    kind: Literal["ensemble"] = "ensemble"
    is_random: ClassVar[bool] = False

    def build(self, data: TrainingData) -> Ensemble:
        """The model, not fitted."""
        return Ensemble(data.members, self.weights)


class Ensemble(ClosedFormModel):
    """A weighted sum of standardised scores. The models are not part of its state."""

    weights: Tensor  # (number of models,) float32

    def __init__(self, members: tuple[Member, ...], weights: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.members, self.given = members, weights
        self.register_buffer("weights", torch.zeros(len(members)))

    @property
    def labels(self) -> list[str]:
        """Different names for the models."""
        times = Counter(member.name for member in self.members)
        return [
            member.name if times[member.name] == 1 else f"{member.name} {number}"
            for number, member in enumerate(self.members, start=1)
        ]

    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Chooses the weights, unless they are given; returns them as ``weights``."""
        del data
        if self.given:
            self._set(torch.tensor(self.given))
            return {"weights": self.weights.tolist()}
        single = torch.eye(len(self.members))
        alone = [self._score(score, weights) for weights in single]
        first, *others = sorted(range(len(alone)), key=lambda number: -alone[number])
        weights, best = single[first], alone[first]
        for number in others:
            mixed = [(1 - share) * weights + share * single[number] for share in SHARES]
            scores = [self._score(score, each) for each in mixed]
            if max(scores) > best:
                best = max(scores)
                weights = mixed[scores.index(best)]
        self._set(weights)
        return {"weights": [round(weight, 6) for weight in self.weights.tolist()]}

    def _set(self, weights: Tensor) -> None:
        self.weights = weights / weights.sum()

    def _score(self, score: Scorer, weights: Tensor) -> float:
        self._set(weights)
        return score(self, **dict(zip(self.labels, [round(each, 6) for each in self.weights.tolist()], strict=True)))

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items with the largest sums."""
        return rank_scores(self.item_scores(batch), k, exclude=exclude)

    @torch.no_grad()
    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N) weighted sums of standardised scores."""
        total: Tensor | None = None
        for member, weight in zip(self.members, self.weights.tolist(), strict=True):
            if not weight:
                continue
            if member.model.device != self.device:
                member.model.to(self.device)
            scores = standardized(member.model.item_scores(batch)).mul_(weight)
            total = scores if total is None else total.add_(scores)
        assert total is not None, "weights do not sum to zero"
        return total


def standardized(scores: Tensor) -> Tensor:
    """(B, N) float32 of mean 0 and deviation 1 in each row; rows of equal scores become 0."""
    centred = scores.float() - scores.mean(1, keepdim=True, dtype=torch.float32)
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / scores.shape[1] ** 0.5
    scale = scores.abs().amax(1, keepdim=True).float()
    return centred * torch.where(deviation > 1e-6 * scale, 1 / deviation, 0.0)

"""The most popular items for everybody: the baseline that shows how much of a figure is popularity."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dmrec_ext import Csr, rank_topk

from ..base import ClosedFormModel, ModelConfig, Scorer, TrainingData, UserBatch, register


@register
class PopularityConfig(ModelConfig):
    """Ranks items by their number of training interactions."""

    kind: Literal["popularity"] = "popularity"
    unsharded: ClassVar[str | None] = "it counts interactions"
    is_random: ClassVar[bool] = False

    def build(self, data: TrainingData) -> Popularity:
        """The model, not fitted."""
        return Popularity(data.n_items)


class Popularity(ClosedFormModel):
    """Ranks items by their number of training interactions."""

    scores: Tensor  # (N,) float32

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.zeros(n_items))

    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Counts interactions; there is nothing to choose."""
        self.scores = torch.bincount(data.interactions.col, minlength=data.n_items).float()
        return {}

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items with the most interactions: (B, 1) ones times (N, 1) counts, so that no (B, N) scores exist."""
        ones = torch.ones(batch.size, 1, device=self.scores.device)
        return rank_topk(ones, self.scores[:, None], k, exclude=exclude)

    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N): the counts, for everybody."""
        return self.scores.expand(batch.size, -1)

"""TextGCN (Chernov et al., 2025): texts smoothed over the graph of users and items; nothing is trained.

E_0 are the text vectors of items and, for users, the means of their items'. Items are ranked by the cosine with
(E_0 + A E_0 + .. + A^L E_0) / (L + 1); L is chosen on validation. What text and graph give for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate

from ...errors import DmrecError
from ..base import ClosedFormModel, ModelConfig, Scorer, TrainingData, UserBatch, WithTextVectors, register
from .propagation import Graph, smooth
from .text import text_vectors


@register
class TextGcnConfig(WithTextVectors, ModelConfig):
    """TextGCN; the number of layers is chosen on validation."""

    kind: Literal["text-gcn"] = "text-gcn"
    unsharded: ClassVar[str | None] = "its propagation needs the whole graph"
    is_random: ClassVar[bool] = False
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        tuple(range(7)), min_length=1, description="numbers of layers to try; 0: the texts as they are"
    )

    def build(self, data: TrainingData) -> TextGcn:
        """The model, not fitted."""
        return TextGcn(data, self.layers)


class TextGcn(ClosedFormModel):
    """All of its state is the number of layers; the rest follows from the data."""

    reads_interactions = False
    chosen: Tensor  # () int64, L
    initial: Tensor  # (M + N, E) float32

    def __init__(self, data: TrainingData, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.n_users = layers, data.n_users
        _, items = text_vectors(data)
        x = data.interactions
        means = csr_aggregate(x._replace(values=None), items) / x.crow.diff().clamp_min(1)[:, None]
        self.graph = Graph(x)
        self.register_buffer("chosen", torch.tensor(0))
        self.register_buffer("initial", torch.cat([means, items]), persistent=False)
        self._kept: tuple[tuple[int, torch.device], Tensor] | None = None

    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Scores each number of layers and keeps the best; returns ``{"layers": L}``."""
        del data
        best: tuple[float, int] | None = None
        for layers in self.layers:
            self.chosen = torch.tensor(layers, device=self.device)
            value = score(self, layers=layers)
            if best is None or value > best[0]:
                best = value, layers
        assert best is not None, "the options name a number of layers"
        self.chosen = torch.tensor(best[1], device=self.device)
        return {"layers": best[1]}

    def vectors(self) -> Tensor:
        """(M + N, E) float32 of unit length, or zeros."""
        key = int(self.chosen), self.device
        if self._kept is None or self._kept[0] != key:
            nodes = smooth(self.graph.whole(), self.initial, key[0])
            self._kept = key, nn.functional.normalize(nodes, dim=1)
        return self._kept[1]

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items of the largest cosine."""
        users, items = self._users_and_items(batch)
        return self.rank_items(users, items, k, exclude=exclude)

    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N): the cosines."""
        users, items = self._users_and_items(batch)
        return users @ items.T

    def _users_and_items(self, batch: UserBatch) -> tuple[Tensor, Tensor]:
        if batch.ids is None:
            raise DmrecError("text-gcn knows only the users of its graph; recommend with another model")
        vectors = self.vectors()
        return vectors[batch.ids], vectors[self.n_users :]

    def item_vectors(self) -> Tensor:
        """(N, E): the smoothed texts of the items."""
        return self.vectors()[self.n_users :]

"""LightGCN (He et al., SIGIR 2020): vectors of users and items, smoothed over their graph, trained by pairs (BPR).

E = (E_0 + A E_0 + .. + A^K E_0) / (K + 1) with A = D^{-1/2} [0 X; X^T 0] D^{-1/2}. A user's score of an item is the
product of their vectors. Loss: -log sigmoid(score of an interaction - score of an item drawn among the others), and
half the squared norm of the vectors of the pair before smoothing, per pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate, rank_topk

from .registry import ModelConfig, TrainingData, register


@register
class LightGcnConfig(ModelConfig):
    """LightGCN."""

    kind: Literal["lightgcn"] = "lightgcn"
    width: int = Field(64, ge=1, description="of the vectors")
    layers: int = Field(3, ge=0, description="K, steps over the graph; 0: matrix factorisation")
    decay: float = Field(1e-4, ge=0, description="weight of the squared norms")

    def build(self, data: TrainingData) -> LightGcn:
        """The vectors, drawn."""
        return LightGcn(data.train, width=self.width, layers=self.layers, decay=self.decay)


@dataclass(frozen=True)
class VectorRanker:
    """Ranks items (N, D) by their products with the vector of a user (M, D)."""

    users: Tensor
    items: Tensor

    def rank(self, x: Csr, users: Tensor, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The k best items of users by number, whatever their interactions ``x``."""
        del x
        return rank_topk(self.users[users], self.items, k, exclude=exclude)


class LightGcn(nn.Module):
    """The graph is the training data's: kept in memory, not in checkpoints."""

    def __init__(self, train: Csr, *, width: int, layers: int, decay: float) -> None:
        super().__init__()
        self.n_users, self.layers, self.decay = train.n_rows, layers, decay
        self.vectors = nn.Parameter(0.1 * torch.randn(train.n_rows + train.n_cols, width))
        self.graph = graph_of(train)
        self.interactions = train.row_of_entry() * train.n_cols + train.col  # ascending

    def smoothed(self) -> Tensor:
        """(M + N, width): users, then items."""
        layer: Tensor = self.vectors
        total = layer
        for _ in range(self.layers):
            layer = csr_aggregate(self.graph, layer, transpose=self.graph)  # A is symmetric
            total = total + layer
        return total / (self.layers + 1)

    def pairs(self, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Users and items of interactions (B,), by number, and for each an item that the user has none with."""
        n_items = len(self.vectors) - self.n_users
        user, item = self.interactions[entries] // n_items, self.interactions[entries] % n_items
        other = torch.randint(n_items, user.shape)
        for _ in range(20):  # a user with all items keeps what was drawn last
            known = self._known(user * n_items + other)
            if not bool(known.any()):
                break
            other = torch.where(known, torch.randint(n_items, user.shape), other)
        return user, item, other

    def loss(self, user: Tensor, item: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Of the order of pairs, and of the norms; means over pairs."""
        vectors = self.smoothed()
        score = vectors[user] * (vectors[self.n_users + item] - vectors[self.n_users + other])
        chosen = [self.vectors[user], self.vectors[self.n_users + item], self.vectors[self.n_users + other]]
        norms = torch.cat(chosen).square().sum() / (2 * len(user))
        return nn.functional.softplus(-score.sum(1)).mean(), self.decay * norms

    @torch.no_grad()
    def ranker(self) -> VectorRanker:
        """Of the vectors as they are now."""
        vectors = self.smoothed()
        return VectorRanker(vectors[: self.n_users], vectors[self.n_users :])

    def _known(self, keys: Tensor) -> Tensor:
        place = torch.searchsorted(self.interactions, keys).clamp_max(len(self.interactions) - 1)
        return self.interactions[place] == keys


def graph_of(train: Csr) -> Csr:
    """(M + N, M + N) normalised adjacency of users, then items."""
    users, back = train, train.transpose()
    degree = torch.cat([users.crow.diff(), back.crow.diff()]).clamp_min(1).rsqrt()
    crow = torch.cat([users.crow, users.crow[-1] + back.crow[1:]])
    col = torch.cat([users.col + train.n_rows, back.col])
    graph = Csr(crow, col, None, train.n_rows + train.n_cols)
    return graph._replace(values=degree[graph.row_of_entry()] * degree[col])

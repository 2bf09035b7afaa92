"""LightGCN (He et al., SIGIR 2020): embeddings of users and items, propagated over their graph, trained by pairs (BPR).

E = (E_0 + A E_0 + .. + A^K E_0) / (K + 1) with A = D^{-1/2} [0 X; X^T 0] D^{-1/2}. A user's score of an item is the
product of their embeddings. Loss: -log sigmoid(score of an interaction - score of an item drawn among the others), and
half the squared norm of the embeddings of the pair before propagation, per pair.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate, rank_topk

from ...errors import DmrecError
from ...options import SearchSpace
from ..base import Losses, ModelConfig, Step, TrainedModel, TrainingData, UserBatch, register


@register
class LightGcnConfig(ModelConfig):
    """LightGCN."""

    kind: Literal["lightgcn"] = "lightgcn"
    embedding_dim: int = Field(64, ge=1, description="width of the embeddings")
    layers: int = Field(3, ge=0, description="K, steps over the graph; 0: matrix factorisation")
    l2: float = Field(1e-4, ge=0, description="weight of the squared norms")

    search_space: ClassVar[SearchSpace] = {
        "layers": {"choices": [1, 2, 3, 4]},
        "l2": {"low": 1e-6, "high": 1e-2, "log": True},
    }

    def build(self, data: TrainingData) -> LightGcn:
        """The embeddings; initial values follow torch's global seed."""
        return LightGcn(data.interactions, self)


class Pairs(NamedTuple):
    """Interactions and, for each, an item that its user has not interacted with; (B,) int64 each."""

    user: Tensor
    item: Tensor
    negative: Tensor


class LightGcn(TrainedModel):
    """An example is an interaction. The graph is the training data's: a buffer that is not part of checkpoints."""

    reads_interactions = False
    graph_crow: Tensor
    graph_col: Tensor
    graph_values: Tensor

    def __init__(self, interactions: Csr, options: LightGcnConfig) -> None:
        super().__init__()
        self.n_users, self.n_items, self.options = interactions.n_rows, interactions.n_cols, options
        self.n_examples = interactions.nnz
        self.vectors = nn.Parameter(0.1 * torch.randn(self.n_users + self.n_items, options.embedding_dim))
        graph = normalized_adjacency(interactions)
        for name in ("crow", "col", "values"):
            self.register_buffer(f"graph_{name}", getattr(graph, name), persistent=False)
        self.interactions = interactions.row_of_entry() * self.n_items + interactions.col  # ascending; on the CPU
        self._propagated: Tensor | None = None
        self._propagated_from: tuple[torch.device, int] | None = None
        self.register_load_state_dict_post_hook(_forget_propagated)  # type: ignore[no-untyped-call]

    @property
    def graph(self) -> Csr:
        """(M + N, M + N) normalised adjacency."""
        return Csr(self.graph_crow, self.graph_col, self.graph_values, self.n_users + self.n_items)

    def propagate(self) -> Tensor:
        """(M + N, embedding_dim): the propagated embeddings of users, then of items."""
        layer: Tensor = self.vectors
        total = layer
        for _ in range(self.options.layers):
            layer = csr_aggregate(self.graph, layer, transpose=self.graph)  # A is symmetric
            total = total + layer
        return total / (self.options.layers + 1)

    def batch(self, index: Tensor) -> Pairs:
        """The interactions ``index``, each with a negative item."""
        key = self.interactions[index]
        user, item = key // self.n_items, key % self.n_items
        negative = torch.randint(self.n_items, user.shape)
        for _ in range(20):  # a user with all items keeps what was drawn last
            known = self._known(user * self.n_items + negative)
            if not bool(known.any()):
                break
            negative = torch.where(known, torch.randint(self.n_items, user.shape), negative)
        return Pairs(user, item, negative)

    def loss(self, batch: Pairs, step: Step) -> Losses:
        """``bpr`` and ``l2``, means over pairs."""
        del step
        user, item, negative = batch.user, self.n_users + batch.item, self.n_users + batch.negative
        vectors = self.propagate()
        score = vectors[user] * (vectors[item] - vectors[negative])
        chosen = torch.cat([self.vectors[user], self.vectors[item], self.vectors[negative]])
        bpr = nn.functional.softplus(-score.sum(1)).mean()
        l2 = self.options.l2 * (chosen.square().sum() / (2 * len(user)))
        return {"loss": bpr + l2, "bpr": bpr, "l2": l2}

    @torch.no_grad()
    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items with the largest products with the embedding of a user."""
        users, items = self._users_and_items(batch)
        return rank_topk(users, items, k, exclude=exclude, precision=self.candidate_precision)

    @torch.no_grad()
    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N): the products with the embeddings of the users."""
        users, items = self._users_and_items(batch)
        return users @ items.T

    def _users_and_items(self, batch: UserBatch) -> tuple[Tensor, Tensor]:
        """(B, embedding_dim) and (N, embedding_dim)."""
        if batch.ids is None:
            raise DmrecError("lightgcn knows only the users it was trained on; recommend with another model")
        vectors = self._embeddings()
        return vectors[batch.ids], vectors[self.n_users :]

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """(N, embedding_dim): the propagated embeddings of the items."""
        return self._embeddings()[self.n_users :]

    def train(self, mode: bool = True) -> LightGcn:
        """In training mode also forgets the embeddings that were propagated for ranking."""
        if mode:
            self._propagated = None
        return super().train(mode)

    def _embeddings(self) -> Tensor:
        """The propagated embeddings; in evaluation mode they are computed once."""
        if self.training:
            return self.propagate()
        key = self.vectors.device, self.vectors._version  # which counts changes in place
        if self._propagated is None or self._propagated_from != key:
            self._propagated, self._propagated_from = self.propagate(), key
        return self._propagated

    def _known(self, keys: Tensor) -> Tensor:
        place = torch.searchsorted(self.interactions, keys).clamp_max(len(self.interactions) - 1)
        return self.interactions[place] == keys


def _forget_propagated(module: nn.Module, _: object) -> None:
    """Embeddings that were propagated before a state was loaded are not its own."""
    module.train(module.training)


def normalized_adjacency(interactions: Csr) -> Csr:
    """(M + N, M + N): D^{-1/2} [0 X; X^T 0] D^{-1/2} of users, then items."""
    users, back = interactions, interactions.transpose()
    degree = torch.cat([users.crow.diff(), back.crow.diff()]).clamp_min(1).rsqrt()
    crow = torch.cat([users.crow, users.crow[-1] + back.crow[1:]])
    col = torch.cat([users.col + interactions.n_rows, back.col])
    graph = Csr(crow, col, None, interactions.n_rows + interactions.n_cols)
    return graph._replace(values=degree[graph.row_of_entry()] * degree[col])

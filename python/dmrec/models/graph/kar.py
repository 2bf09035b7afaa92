"""KAR (Xi et al., RecSys 2024) in LightGCN: what experts make of the texts joins the embeddings.

Experts are networks E - hidden - width with ReLU after both layers: ``shared`` ones of users and items, ``own`` ones of
either. A softmax gate over the text weighs them, a = sum_k gate_k expert_k(w); the gates and the first layers are one
product. With an embedding e of the node, Linear([e ; a]), one for users and one for items, is what is propagated
(``place: before``), or joined to the smoothed embedding (``after``).

KAR is a model of clicks; its use in collaborative filtering is described by the authors of RLMRec alone, who compared
with it and did not publish it: where both join, and what follows, are our choices.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ...options import SearchSpace
from ..base import TrainingData, register
from ..info_nce import at_least_float32
from .propagation import Adjacency
from .text import TextGraphConfig, TextGraphModel


@register
class KarConfig(TextGraphConfig):
    """KAR on LightGCN."""

    kind: Literal["kar"] = "kar"
    hidden: int = Field(128, ge=1, description="width inside an expert")
    shared: int = Field(2, ge=1, description="experts of users and items alike")
    own: int = Field(5, ge=1, description="further experts of users, and of items")
    place: Literal["before", "after"] = Field("before", description="where texts join embeddings, next to the graph")

    search_space: ClassVar[SearchSpace] = {
        **TextGraphConfig.search_space,
        "own": {"choices": [2, 3, 4, 5, 6]},
        "place": {"choices": ["before", "after"]},
    }

    def build(self, data: TrainingData) -> Kar:
        """The model; initial values follow torch's global seed."""
        return Kar(data, self)


class Kar(TextGraphModel):
    """LightGCN whose embeddings are joined by those of experts over texts."""

    options: KarConfig

    def __init__(self, data: TrainingData, options: KarConfig) -> None:
        super().__init__(data, options)
        width, dim = self.item_texts.shape[1], options.embedding_dim
        self.experts = Experts(width, options.hidden, dim, options.shared, options.own)
        self.join = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(2))

    def initial(self) -> Tensor:
        """(M + N, d): the embeddings, joined with those from texts where that is before the graph."""
        return self._joined(self.vectors) if self.options.place == "before" else self.vectors

    def smoothed(self, graph: Adjacency, initial: Tensor) -> Tensor:
        """(M + N, d): E / w, joined with what comes from texts where that is after the graph."""
        nodes = super().smoothed(graph, initial)
        return nodes if self.options.place == "before" else self._joined(nodes)

    def _joined(self, nodes: Tensor) -> Tensor:
        of_texts = self.experts(self.user_texts, self.item_texts)
        parts = nodes.split([self.n_users, self.n_items])
        joined = [
            layer(torch.cat([part, text], 1)) for layer, part, text in zip(self.join, parts, of_texts, strict=True)
        ]
        return at_least_float32(torch.cat(joined))


class Experts(nn.Module):
    """Two towers of gated experts, some of which both have."""

    def __init__(self, width: int, hidden: int, dim: int, shared: int, own: int) -> None:
        super().__init__()
        self.hidden, self.n_shared, self.n_own = hidden, shared, own
        self.first_shared = nn.Linear(width, shared * hidden)
        self.first_own = nn.ModuleList(nn.Linear(width, own * hidden) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(width, shared + own) for _ in range(2))
        self.second_shared = nn.ModuleList(nn.Linear(hidden, dim) for _ in range(shared))
        self.second_own = nn.ModuleList(nn.ModuleList(nn.Linear(hidden, dim) for _ in range(own)) for _ in range(2))

    def forward(self, users: Tensor, items: Tensor) -> list[Tensor]:
        """(M, dim) and (N, dim) from texts (M, E) and (N, E)."""
        return [self._tower(number, texts) for number, texts in enumerate((users, items))]

    def _tower(self, number: int, texts: Tensor) -> Tensor:
        layers: list[Any] = [self.first_shared, self.first_own[number], self.gates[number]]
        weight = torch.cat([layer.weight for layer in layers])
        first = nn.functional.linear(texts, weight, torch.cat([layer.bias for layer in layers]))
        n = self.n_shared + self.n_own
        gate = at_least_float32(first[:, n * self.hidden :]).softmax(1)
        hidden = torch.relu(first[:, : n * self.hidden]).view(len(texts), n, self.hidden)
        own: Any = self.second_own[number]
        second = [*self.second_shared, *own]
        out = [torch.relu(layer(each)) for layer, each in zip(second, hidden.unbind(1), strict=True)]
        return torch.stack([gate[:, k : k + 1] * each for k, each in enumerate(out)]).sum(0)

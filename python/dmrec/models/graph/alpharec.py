"""AlphaRec (Sheng et al., ICLR 2025): no embeddings; a network maps texts to vectors that are smoothed over the graph.

x_i is the text vector of an item, x_u the mean of those of the user's training items; E_0 = g(x) with one network g for
both. Scores are cosines. The loss is InfoNCE over the item of a pair and sampled negatives,

    mean over pairs of -log(e^{s_ui / tau} / (e^{s_ui / tau} + sum_j e^{s_uj / tau})).

AlphaRec* also reads the text of the user (``user_input``). The released program chooses its epoch on the test set; here
validation does.

The first layer of g is linear, so that of a user's mean is the mean of the items' results: no (M, E) matrix is formed.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate, csr_dot

from ...options import SearchSpace
from ..base import Losses, Step, TrainingData, WithTextVectors, register
from ..info_nce import at_least_float32, info_nce
from .model import GraphConfig, GraphModel
from .pairs import Pairs, PairSampler, Sampling
from .text import text_vectors


@register
class AlphaRecConfig(GraphConfig, WithTextVectors):
    """AlphaRec."""

    kind: Literal["alpharec"] = "alpharec"
    hidden: int | None = Field(None, ge=1, description="width inside the network; default: half of the texts' width")
    temperature: float = Field(0.15, gt=0, description="tau")
    negatives: Literal["sampled", "batch", "all"] = Field(
        "sampled", description="what an item is told apart from: sampled items, those of the batch, or all"
    )
    n_negatives: int = Field(256, ge=1, description="sampled items for each pair")
    by: Sampling = Field("users", description="what an example is: each user as often as any other, or an interaction")
    user_input: Literal["mean", "profile", "sum", "concat"] = Field(
        "mean",
        description="x_u: the mean of the items' texts, the user's own text, the sum of both, each of unit length, or "
        "both, each with a first layer of its own",
    )
    test_score: Literal["cosine", "product"] = Field("cosine", description="what items are ranked by")

    search_space: ClassVar[SearchSpace] = {
        "layers": {"choices": [1, 2, 3, 4]},
        "l2": {"choices": [0.0, 1e-9, 1e-7, 1e-5]},
        "temperature": {"low": 0.05, "high": 0.5},
        "test_score": {"choices": ["cosine", "product"]},
    }

    def build(self, data: TrainingData) -> AlphaRec:
        """The network; initial values follow torch's global seed."""
        return AlphaRec(data, self)


class AlphaRec(GraphModel):
    """The network's weights are all of its state."""

    options: AlphaRecConfig
    item_texts: Tensor  # (N, E) float32, as stored
    user_texts: Tensor | None  # (M, E), where they are read
    crow: Tensor
    col: Tensor

    def __init__(self, data: TrainingData, options: AlphaRecConfig) -> None:
        super().__init__(data, options)
        users, items = text_vectors(data)
        width = items.shape[1]
        hidden = options.hidden or width // 2
        self.first = nn.Linear(width, hidden)
        of_profile = options.user_input == "concat"
        self.of_profile = nn.Linear(width, hidden, bias=False) if of_profile else None
        self.second = nn.Linear(hidden, options.embedding_dim)
        self.register_buffer("item_texts", items, persistent=False)
        self.register_buffer("user_texts", None if options.user_input == "mean" else users, persistent=False)
        for name in ("crow", "col"):
            self.register_buffer(name, getattr(data.interactions, name), persistent=False)

    def pair_sampler(self, data: TrainingData) -> PairSampler:
        """With as many negatives as the options say."""
        count = self.options.n_negatives if self.options.negatives == "sampled" else 1
        return PairSampler(data.interactions, self.options.by, count)

    def initial(self) -> Tensor:
        """(M + N, d): g(x)."""
        of_items = nn.functional.linear(self.item_texts, self.first.weight)
        kind, profile = self.options.user_input, self.user_texts
        of_users = of_items.new_zeros(self.n_users, of_items.shape[1])
        if kind in ("mean", "concat"):
            of_users = self._means(of_items)
        if kind == "sum":
            mean = nn.functional.normalize(self._means(self.item_texts), dim=1)
            of_users = nn.functional.linear(mean, self.first.weight)
        if profile is not None:
            layer = self.first.weight if self.of_profile is None else self.of_profile.weight
            unit = profile if kind == "profile" else nn.functional.normalize(profile, dim=1)
            of_users = of_users + nn.functional.linear(unit, layer)
        hidden = torch.cat([of_users, of_items]) + self.first.bias
        nodes: Tensor = self.second(nn.functional.leaky_relu(hidden))
        return nodes

    def _means(self, rows: Tensor) -> Tensor:
        """(M, width): means of the rows (N, width) of each user's items."""
        x = Csr(self.crow, self.col, None, self.n_items)
        return csr_aggregate(x, at_least_float32(rows)) / self.crow.diff().clamp_min(1)[:, None]

    def propagate(self) -> Tensor:
        """(M + N, d): the smoothed vectors, of unit length where items are ranked by cosine."""
        nodes = super().propagate()
        return nn.functional.normalize(nodes, dim=1) if self.options.test_score == "cosine" else nodes

    def loss(self, batch: Pairs, step: Step) -> Losses:
        """``contrast`` and ``l2``."""
        del step
        initial = at_least_float32(self.initial())
        nodes = self.smoothed(self.graph.dropped(self.options.keep, self.options.edge_dropout), initial)
        users, items = nodes[batch.user], nodes[self.n_users :]
        tau = self.options.temperature
        if self.options.negatives == "all":
            contrast = info_nce(users, items, batch.item, tau)
        elif self.options.negatives == "batch":
            own = torch.arange(len(users), device=users.device)
            contrast = info_nce(users, items[batch.item], own, tau)
        else:
            contrast = self._sampled(users, items, batch)
        rows = torch.cat([batch.user, self.n_users + batch.item])
        l2 = self.options.l2 * self._norms(initial, rows, of_a_pair=2)
        return {"loss": contrast + l2, "contrast": contrast, "l2": l2}

    def _sampled(self, users: Tensor, items: Tensor, batch: Pairs) -> Tensor:
        """Cosines with the item of each pair and its negatives alone, as entries of a sparse matrix."""
        col = torch.cat([batch.item[:, None], batch.negative.view(len(users), -1)], 1)
        crow = torch.arange(len(users) + 1, device=col.device) * col.shape[1]
        unit = nn.functional.normalize(users, dim=1) / self.options.temperature
        x = Csr(crow, col.reshape(-1), None, len(items))
        scores = csr_dot(x, unit, nn.functional.normalize(items, dim=1)).view(col.shape)
        return (scores.logsumexp(1) - scores[:, 0]).mean()

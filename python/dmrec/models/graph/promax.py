"""ProMax (SIGIR 2026, by DMRec's authors): LightGCN drawn towards distributions over items that texts give, and towards
a second graph with edges that texts give.

E = A E_0 + .. + A^K E_0, without E_0 itself; E' the same over the training interactions and, for each user, the
``retrieved`` items without an interaction whose texts have the largest cosine with the user's (the authors let a
language model choose among such). Texts are reduced to the width of the embeddings by PCA with whitening, w~. A step
adds a SDR + b S2DR, with tau_p for the texts and tau for the rest:

    p_u  = softmax_i(cos(w~_u, w~_i) / tau_p), fixed;  omega_u = 1 - H(p_u) / ln N, from 0.1 to 1
    SDR  = mean over the batch's users of omega_u CE(p_u, softmax_i(cos(e_u, e_i) / tau_p))
    S2DR = nce(e_u, e'_u; users of the batch) + nce(e_i, e'_i; items of the batch)
           + (nce(e_u, e'_i; pairs of the batch) + nce(e'_u, e_i; pairs of the batch)) / 2.

The released code whitens users and items apart, which leaves the axes of one unrelated to those of the other
(``projection: separate``). At 32 whitened dimensions cosines are nearly evenly spread, so that omega is 0.1 for almost
every user: compare with a run on permuted texts before calling a gain one of language.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate, rank_topk

from ...options import SearchSpace
from ..base import Losses, TrainingData, register
from ..info_nce import at_least_float32, info_nce
from .pairs import Pairs, PairSampler
from .propagation import Adjacency, Graph, smooth
from .text import TextGraphConfig, TextGraphModel


@register
class ProMaxConfig(TextGraphConfig):
    """ProMax."""

    kind: Literal["promax"] = "promax"
    distribution_weight: float = Field(1.5, ge=0, description="a, of the distributions over items")
    graph_weight: float = Field(0.05, ge=0, description="b, of the contrast with the second graph")
    text_temperature: float = Field(0.2, gt=0, description="tau_p, of the distributions over items")
    temperature: float = Field(0.2, gt=0, description="tau, of the contrast with the second graph")
    retrieved: int = Field(3, ge=0, description="edges of a user that texts add to the second graph")
    projection: Literal["joint", "separate"] = Field(
        "joint", description="whether users and items are reduced and whitened together, or apart as in the code"
    )
    floor: float = Field(
        0.0, ge=0, description="added to probabilities before their logarithm; the released code has 1e-5"
    )

    search_space: ClassVar[SearchSpace] = {
        **TextGraphConfig.search_space,
        "distribution_weight": {"low": 0.05, "high": 2.0, "log": True},
        "graph_weight": {"low": 0.01, "high": 1.0, "log": True},
        "temperature": {"low": 0.1, "high": 0.5},
    }

    def build(self, data: TrainingData) -> ProMax:
        """The model; initial values follow torch's global seed."""
        return ProMax(data, self)


class ProMax(TextGraphModel):
    """Embeddings of all nodes are the model's weights."""

    options: ProMaxConfig
    user_codes: Tensor  # (M, d) float32 of unit length, whitened texts
    item_codes: Tensor  # (N, d)

    def __init__(self, data: TrainingData, options: ProMaxConfig) -> None:
        super().__init__(data, options)
        joint = options.projection == "joint"
        codes = whitened([self.user_texts, self.item_texts], options.embedding_dim, joint=joint)
        for name, of_side in zip(("user_codes", "item_codes"), codes, strict=True):
            self.register_buffer(name, nn.functional.normalize(of_side, dim=1), persistent=False)
        self.second = Graph(with_retrieved(data.interactions, self.user_texts, self.item_texts, options.retrieved))

    def pair_sampler(self, data: TrainingData) -> PairSampler:
        """With each user and item of a batch once."""
        return PairSampler(data.interactions, distinct=True)

    def smoothed(self, graph: Adjacency, initial: Tensor) -> Tensor:
        """(M + N, d): the powers from 1 to K."""
        if not self.options.layers:
            return initial
        return csr_aggregate(graph.matrix, smooth(graph, initial, self.options.layers - 1), transpose=graph.transpose)

    def further(self, batch: Pairs, chosen: Tensor, nodes: Tensor) -> Losses:
        """``distribution`` and ``graph``."""
        assert batch.users is not None, "the sampler gives them"
        assert batch.items is not None, "the sampler gives them"
        users, items = batch.users, self.n_users + batch.items
        other = self.smoothed(self.second.whole(), self.vectors)
        options, tau = self.options, self.options.temperature
        user, item, _ = chosen.chunk(3)
        pairs = torch.arange(len(user), device=user.device)
        sides = [self._nce(nodes[rows], other[rows], tau) for rows in (users, items)]
        across = info_nce(user, other[self.n_users + batch.item], pairs, tau)
        across = across + info_nce(other[batch.user], item, pairs, tau)
        graph = sides[0] + sides[1] + across / 2
        distribution = self._distribution(nodes, users)
        return {
            "distribution": options.distribution_weight * distribution,
            "graph": options.graph_weight * graph,
        }

    def _nce(self, query: Tensor, pool: Tensor, tau: float) -> Tensor:
        own = torch.arange(len(query), device=query.device)
        return info_nce(query, pool, own, tau, floor=self.options.floor)

    def _distribution(self, nodes: Tensor, users: Tensor) -> Tensor:
        tau = self.options.text_temperature
        computes = nodes.device.type in ("cpu", "cuda")  # others have no autocast
        with torch.autocast(nodes.device.type, enabled=False) if computes else nullcontext():
            of_texts = (self.user_codes[users] @ self.item_codes.T / tau).log_softmax(1)
            p = of_texts.exp()
            omega = (1 + (p * of_texts).sum(1) / math.log(self.n_items)).clamp(0.1, 1)
            nodes = nn.functional.normalize(at_least_float32(nodes), dim=1)
            found = (nodes[users] @ nodes[self.n_users :].T / tau).log_softmax(1)
            return -(omega * (p * found).sum(1)).mean()


def whitened(sides: list[Tensor], width: int, *, joint: bool) -> list[Tensor]:
    """(n, width) each: principal components of rows (n, E), of variance 1; of all sides together, or of each alone."""
    if not joint:
        return [whitened([side], width, joint=True)[0] for side in sides]
    together = torch.cat(sides).double()
    centred = together - together.mean(0)
    _, scale, axes = torch.linalg.svd(centred, full_matrices=False)
    kept = min(width, int((scale > 1e-9 * scale[0]).sum()))
    rows = centred @ axes[:kept].T / scale[:kept] * math.sqrt(len(together))
    return [each.float() for each in rows.split([len(side) for side in sides])]


def with_retrieved(interactions: Csr, users: Tensor, items: Tensor, count: int) -> Csr:
    """The interactions and, for each user, the ``count`` other items of the largest cosine of texts."""
    if not count:
        return interactions._replace(values=None)
    users, items = (nn.functional.normalize(each, dim=1) for each in (users, items))
    found = rank_topk(users, items, count, exclude=interactions)[1]
    row = torch.arange(interactions.n_rows)[:, None].expand_as(found)
    there = found >= 0
    key = torch.cat([interactions.row_of_entry(), row[there]]) * interactions.n_cols
    key = (key + torch.cat([interactions.col, found[there]])).sort().values
    counts = torch.bincount(key // interactions.n_cols, minlength=interactions.n_rows)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Csr(crow, key % interactions.n_cols, None, interactions.n_cols)

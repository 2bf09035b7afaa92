"""LLMRec (Wei et al., WSDM 2024): embeddings and texts over one-sided graphs, further edges, pairs that are pruned.

With A_u = D_u^{-1/2} X and A_i = D_i^{-1/2} X^T, embeddings pass two layers, u <- A_u i and then i <- A_i u, a softmax
over the width ends the second, and the mean with the embeddings themselves is taken. A linear map of users' texts goes
to items and back (profile), one of items' texts to users and back (attribute). With unit() the direction,

    node = id + ``profile_weight`` unit(profile) + ``attribute_weight`` unit(attribute),
    loss = P(BPR(node)) + ``side_weight`` P(BPR(profile of u, attribute of i)) + l2 * norms,

where P is the mean over those pairs that pruning leaves. In each batch a share of the users has a second pair, whose
two items a language model has told apart among a base model's candidates. Here the base is one step over the graph, and
of its ten best unseen items those whose texts have the largest and the smallest cosine with the user's are taken
(``edges``).

The released program keeps the pairs with the largest losses where the paper prunes these, divides by norms where norms
are to be small, and chooses its epoch on the test set; the first two are options here, the last is not.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate, rank_scores

from ...options import SearchSpace
from ..base import Losses, Step, TrainingData, register
from ..info_nce import at_least_float32
from .model import GraphConfig
from .pairs import Pairs, PairSampler
from .propagation import Adjacency
from .text import TextGraphConfig, TextGraphModel, text_vectors

CANDIDATES = 10  # of a user, of which the texts tell two apart
BLOCK = 256  # users at a time, for candidates


@register
class LlmRecConfig(TextGraphConfig):
    """LLMRec."""

    kind: Literal["llmrec"] = "llmrec"
    profile_weight: float = Field(2.8, ge=0, description="of the users' texts in the vectors of nodes")
    attribute_weight: float = Field(0.005, ge=0, description="of the items' texts in the vectors of nodes")
    side_weight: float = Field(0.012, ge=0, description="of the loss of texts alone")
    prune: float = Field(0.71, ge=0, lt=1, description="share of a batch's pairs that is pruned")
    pruned: Literal["small", "large"] = Field(
        "small", description="which: small losses, as released, or large ones, as in the paper"
    )
    regulariser: Literal["norms", "inverse"] = Field(
        "norms", description="half the squared norms per pair, or as released half of 1 / squared norm"
    )
    edges: Literal["cosine", "none"] = Field("cosine", description="further pairs, by the cosine of texts")
    edge_share: float = Field(0.1, ge=0, le=1, description="share of a batch's users with a further pair")

    @model_validator(mode="after")
    def _own_layers(self) -> LlmRecConfig:
        for name in ("layers", "readout", "keep", "edge_dropout"):
            if getattr(self, name) != GraphConfig.model_fields[name].default:
                raise ValueError(f".{name}: llmrec has two layers over graphs of its own; leave it out")
        return self

    search_space: ClassVar[SearchSpace] = {
        "embedding_dim": {"choices": [32, 64, 128]},
        "l2": {"low": 1e-9, "high": 1e-3, "log": True},
        "profile_weight": {"low": 0.01, "high": 10.0, "log": True},
        "attribute_weight": {"low": 1e-4, "high": 10.0, "log": True},
        "side_weight": {"low": 1e-3, "high": 1.0, "log": True},
        "prune": {"low": 0.0, "high": 0.8},
        "pruned": {"choices": ["small", "large"]},
    }

    def build(self, data: TrainingData) -> LlmRec:
        """The model; initial values follow torch's global seed."""
        return LlmRec(data, self)


class FurtherPairs(PairSampler):
    """Pairs of users in turns, and further ones of a share of them."""

    def __init__(self, interactions: Csr, told_apart: Tensor | None, share: float) -> None:
        super().__init__(interactions, by="users")
        self.told_apart, self.share = told_apart, share  # (M, 2) items, -1 where there are none

    def batch(self, index: Tensor) -> Pairs:
        """The examples ``index``, then the further pairs."""
        pairs = super().batch(index)
        if self.told_apart is None:
            return pairs
        chosen = pairs.user[torch.randperm(len(index))[: int(self.share * len(index))]]
        items = self.told_apart[chosen]
        there = (items >= 0).all(1)
        more = chosen[there], items[there, 0], items[there, 1]
        return Pairs(*(torch.cat(both) for both in zip(pairs[:3], more, strict=True)))


class LlmRec(TextGraphModel):
    """Embeddings and two linear maps of texts are the model's weights."""

    options: LlmRecConfig
    of_users: Tensor  # (nnz,) values of A_u
    of_items: Tensor  # (nnz,) values of A_i
    crow: Tensor
    col: Tensor
    back_crow: Tensor
    back_col: Tensor

    def __init__(self, data: TrainingData, options: LlmRecConfig) -> None:
        super().__init__(data, options)
        self.scale = 1.0
        width = self.item_texts.shape[1]
        self.maps = nn.ModuleList(nn.Linear(width, options.embedding_dim) for _ in range(2))
        for layer in self.maps:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
        x, back = data.interactions, data.interactions.transpose()
        parts = {"crow": x.crow, "col": x.col, "back_crow": back.crow, "back_col": back.col}
        for name, matrix in (("of_users", x), ("of_items", back)):
            parts[name] = matrix.crow.diff().clamp_min(1).rsqrt()[matrix.row_of_entry()]
        for name, tensor in parts.items():
            self.register_buffer(name, tensor, persistent=False)

    def pair_sampler(self, data: TrainingData) -> PairSampler:
        """With further pairs by texts."""
        options = self.options
        told_apart = told_apart_by_texts(data) if options.edges == "cosine" else None
        return FurtherPairs(data.interactions, told_apart, options.edge_share)

    def smoothed(self, graph: Adjacency, initial: Tensor) -> Tensor:
        """(M + N, d): the vectors of nodes; the graph is the model's own."""
        del graph
        users, items = initial.split([self.n_users, self.n_items])
        total_users, total_items = users, items
        for layer in range(2):
            users = self._to_users(items)
            items = self._to_items(users)
            if layer == 1:
                users, items = users.softmax(1), items.softmax(1)
            total_users, total_items = total_users + users, total_items + items
        nodes = torch.cat([total_users, total_items]) / 3
        weights = self.options.profile_weight, self.options.attribute_weight
        for weight, side in zip(weights, self._sides(), strict=True):
            nodes = nodes + weight * nn.functional.normalize(side, dim=1)
        return nodes

    def _sides(self) -> tuple[Tensor, Tensor]:
        """(M + N, d) each: profile and attribute, which have gone over the graph and back."""
        profile = self._to_items(at_least_float32(self.maps[0](self.user_texts)))
        attribute = self._to_users(at_least_float32(self.maps[1](self.item_texts)))
        return torch.cat([self._to_users(profile), profile]), torch.cat([attribute, self._to_items(attribute)])

    def _to_users(self, items: Tensor) -> Tensor:
        return csr_aggregate(Csr(self.crow, self.col, self.of_users, self.n_items), items)

    def _to_items(self, users: Tensor) -> Tensor:
        return csr_aggregate(Csr(self.back_crow, self.back_col, self.of_items, self.n_users), users)

    def loss(self, batch: Pairs, step: Step) -> Losses:
        """``bpr``, ``side`` and ``l2``."""
        del step
        nodes = self.smoothed(self.graph.whole(), self.vectors)
        profile, attribute = self._sides()
        rows = torch.stack([batch.user, self.n_users + batch.item, self.n_users + batch.negative])
        parts = {
            "bpr": self._pruned(nodes[rows[0]], nodes[rows[1]] - nodes[rows[2]]),
            "side": self.options.side_weight * self._pruned(profile[rows[0]], attribute[rows[1]] - attribute[rows[2]]),
            "l2": self.options.l2 * self._regulariser(self.vectors, rows),
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def _pruned(self, users: Tensor, difference: Tensor) -> Tensor:
        losses = nn.functional.softplus(-(users * difference).sum(1))
        kept = max(1, int((1 - self.options.prune) * len(losses)))
        return losses.topk(kept, largest=self.options.pruned == "small", sorted=False).values.mean()

    def _regulariser(self, initial: Tensor, rows: Tensor) -> Tensor:
        if self.options.regulariser == "norms":
            return self._norms(initial, rows.reshape(-1))
        return (0.5 / initial[rows].square().sum((1, 2))).sum() / rows.shape[1]


def told_apart_by_texts(data: TrainingData) -> Tensor:
    """(M, 2) int64: of each user's `CANDIDATES` best unseen items after a step over the graph, those whose texts have
    the largest and the smallest cosine with the user's; -1 where there are fewer than two.
    """
    users, items = (nn.functional.normalize(each, dim=1) for each in text_vectors(data))
    interactions = data.interactions._replace(values=None)
    x = interactions._replace(values=_normalised(interactions))
    back = x.transpose()
    found = []
    for ids in torch.arange(data.n_users).split(BLOCK):
        mine = x.rows(ids)
        assert mine.values is not None, "those of x"
        own = torch.zeros(data.n_items, len(ids))
        own[mine.col, mine.row_of_entry()] = mine.values
        reached = csr_aggregate(back, csr_aggregate(x, own))  # (N, B): X^T X x_u
        candidates = rank_scores(reached.T.contiguous(), CANDIDATES, exclude=interactions.rows(ids))[1]
        cosine = (users[ids][:, None] * items[candidates.clamp_min(0)]).sum(2)
        best = cosine.masked_fill(candidates < 0, -torch.inf).argmax(1)
        worst = cosine.masked_fill(candidates < 0, torch.inf).argmin(1)
        chosen = candidates.gather(1, torch.stack([best, worst], 1))
        found.append(chosen.masked_fill((best == worst)[:, None], -1))
    return torch.cat(found)


def _normalised(x: Csr) -> Tensor:
    """(nnz,) values of D_u^{-1/2} X D_i^{-1/2}."""
    of_items = torch.bincount(x.col, minlength=x.n_cols).clamp_min(1).rsqrt()
    return x.crow.diff().clamp_min(1).rsqrt()[x.row_of_entry()] * of_items[x.col]

"""What recommenders over the graph of users and items share: vectors of nodes, smoothed over it, and training by pairs.

A user's score of an item is the product of their smoothed vectors E = w (E_0 + A E_0 + .. + A^K E_0), with
w = 1 / (K + 1) for the mean. The loss is

    mean over pairs of -log sigmoid(score of an interaction - score of a negative)  +  l2 * norms  +  what a model adds.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr

from ...errors import DmrecError
from ...options import SearchSpace
from ..base import Losses, ModelConfig, Step, TrainedModel, TrainingData, UserBatch
from .pairs import Pairs, PairSampler
from .propagation import Adjacency, EdgeDropout, Graph, smooth


class GraphConfig(ModelConfig):
    """Options of all of them."""

    embedding_dim: int = Field(64, ge=1, description="width of the embeddings")
    layers: int = Field(3, ge=0, description="K, steps over the graph; 0: matrix factorisation")
    l2: float = Field(1e-4, ge=0, description="weight of the squared norms")
    norms: Literal["batch", "all"] = Field(
        "batch",
        description="of what: half of the drawn embeddings before propagation, per pair; or all weights of the model",
    )
    readout: Literal["mean", "sum"] = Field("mean", description="of the embeddings after 0 to K steps")
    keep: float = Field(1.0, gt=0, le=1, description="share of the graph's edges that a training step uses")
    edge_dropout: EdgeDropout = Field(
        "directed", description="whether an edge's two directions are dropped apart, or together"
    )

    unsharded: ClassVar[str | None] = "its propagation needs the whole graph"
    search_space: ClassVar[SearchSpace] = {
        "embedding_dim": {"choices": [32, 64, 128]},
        "layers": {"choices": [1, 2, 3, 4]},
        "l2": {"low": 1e-9, "high": 1e-3, "log": True},
        "keep": {"low": 0.6, "high": 1.0},
        "readout": {"choices": ["mean", "sum"]},
    }

    @abstractmethod
    def build(self, data: TrainingData) -> GraphModel:
        """The model; initial values follow torch's global seed."""


class GraphModel(TrainedModel):
    """An example is an interaction. The graph is the training data's and no part of checkpoints."""

    reads_interactions = False

    def __init__(self, data: TrainingData, options: GraphConfig) -> None:
        super().__init__()
        self.n_users, self.n_items, self.options = data.n_users, data.n_items, options
        self.graph = Graph(data.interactions)
        self.sampler = self.pair_sampler(data)
        self.n_examples = len(self.sampler)
        self.scale = 1 / (options.layers + 1) if options.readout == "mean" else 1.0
        self._kept: tuple[tuple[object, ...], Tensor] | None = None  # for rankings: from which weights, and the vectors
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def pair_sampler(self, data: TrainingData) -> PairSampler:
        """What draws the examples."""
        return PairSampler(data.interactions)

    @abstractmethod
    def initial(self) -> Tensor:
        """(M + N, d): E_0, of users, then of items."""

    def training_initial(self) -> Tensor:
        """(M + N, d): E_0 as a step of training has it; default: the same."""
        return self.initial()

    def propagate(self) -> Tensor:
        """(M + N, d): the smoothed vectors of users, then of items, over the whole graph."""
        return self.smoothed(self.graph.whole(), self.initial()) * self.scale

    def smoothed(self, graph: Adjacency, initial: Tensor) -> Tensor:
        """(M + N, d): E / w."""
        return smooth(graph, initial, self.options.layers)

    def batch(self, index: Tensor) -> Pairs:
        """The examples ``index``, each with a negative item."""
        return self.sampler.batch(index)

    def loss(self, batch: Pairs, step: Step) -> Losses:
        """``bpr``, ``l2`` and those of `further`."""
        del step
        initial = self.training_initial()
        nodes = self.smoothed(self.graph.dropped(self.options.keep, self.options.edge_dropout), initial)
        rows = torch.cat([batch.user, self.n_users + batch.item, self.n_users + batch.negative])
        chosen = nodes[rows] * self.scale
        user, item, negative = chosen.chunk(3)
        margin = (user * (item - negative)).sum(1)
        parts = {"bpr": nn.functional.softplus(-margin).mean(), "l2": self.options.l2 * self._norms(initial, rows)}
        parts |= self.further(batch, chosen, nodes)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def further(self, batch: Pairs, chosen: Tensor, nodes: Tensor) -> Losses:
        """Weighted parts of the loss that a model adds; default: none.

        Args:
            batch: B pairs.
            chosen: (3 B, d) their smoothed vectors: users, items, negatives.
            nodes: (M + N, d) the smoothed vectors of all nodes, divided by w.
        """
        del batch, chosen, nodes
        return {}

    def _norms(self, initial: Tensor, rows: Tensor, of_a_pair: int = 3) -> Tensor:
        if self.options.norms == "all":
            return torch.stack([weight.square().sum() for weight in self.parameters()]).sum()
        return initial[rows].square().sum() / (2 * (len(rows) // of_a_pair))

    @torch.no_grad()
    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items with the largest products with the vector of a user."""
        users, items = self._users_and_items(batch)
        return self.rank_items(users, items, k, exclude=exclude)

    @torch.no_grad()
    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N): the products with the vectors of the users."""
        users, items = self._users_and_items(batch)
        return users @ items.T

    def _users_and_items(self, batch: UserBatch) -> tuple[Tensor, Tensor]:
        """(B, d) and (N, d)."""
        if batch.ids is None:
            raise DmrecError(f"{self.kind} knows only the users it was trained on; recommend with another model")
        vectors = self._vectors()
        return vectors[batch.ids], vectors[self.n_users :]

    @property
    def kind(self) -> str:
        """The model's name in configurations."""
        return str(type(self.options).model_fields["kind"].default)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """(N, d): the smoothed vectors of the items."""
        return self._vectors()[self.n_users :]

    def train(self, mode: bool = True) -> GraphModel:
        """In training mode also forgets the vectors that were smoothed for ranking."""
        if mode:
            self._kept = None
        return super().train(mode)

    def _vectors(self) -> Tensor:
        """The smoothed vectors; in evaluation mode they are computed once."""
        if self.training:
            return self.propagate()
        key = (self.device, *((each.data_ptr(), each._version) for each in self.parameters()))
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self.propagate()
        return self._kept[1]


def _forget(module: nn.Module, _: object) -> None:
    """Vectors that were smoothed before a state was loaded are not its own."""
    module.train(module.training)

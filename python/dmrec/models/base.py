"""The contract that every model fulfils: how it is configured, built, trained, and how it ranks.

`ModelConfig` holds a model's options and builds it. A `Model` ranks items for a `UserBatch`; a `ClosedFormModel` is
fitted in one call, a `TrainedModel` by gradient descent over its examples. Nothing outside a model's own file knows
which model it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr

from ..errors import DmrecError
from ..options import Options
from ..sharding.items import ItemShards
from ..tokenizers.base import Tokenizer
from .phases import Phase
from .ranking import ItemRanking

Losses = dict[str, Tensor]
"""() each: ``"loss"``, which is minimised, and the parts of it that are logged."""


class UserBatch(NamedTuple):
    """B users, as models see them."""

    ids: Tensor | None  # (B,) int64 rows of the training data; None for users who were not in training
    interactions: Csr  # (B, N)
    text_vectors: Tensor | None = None  # (B, E) float32 of the users' texts, where the model reads language
    sequences: Tensor | None = None  # (B, S) int64 items, oldest first, then -1, where the model reads order
    given: Csr | None = None  # (B, N) what encoders are given in training, where that is not all of the interactions

    @property
    def size(self) -> int:
        """B."""
        return self.interactions.n_rows


class Histories(NamedTuple):
    """The items of each user's training interactions, oldest first."""

    indptr: Tensor  # (M + 1,) int64: user u has the entries indptr[u] to indptr[u + 1]
    items: Tensor  # (nnz,) int64

    def rows(self, ids: Tensor) -> Tensor:
        """(B, S) int64: those of the users ``ids`` (B,), filled up with -1; S is the longest of them."""
        start, length = self.indptr[ids], self.indptr.diff()[ids]
        place = torch.arange(int(length.max()) if len(ids) else 0)
        there = place < length[:, None]
        return torch.where(there, self.items[torch.where(there, start[:, None] + place, 0)], -1)


class ItemCodes(NamedTuple):
    """Codes of the items."""

    codes: np.ndarray  # (N, levels) integers
    size: int  # codes of a level


class ItemTokenizer(NamedTuple):
    """What codes of the items were made with, and from."""

    tokenizer: Tokenizer
    vectors: np.ndarray  # (N, E) float32
    collisions: str  # the rule for items that share a tuple, see `tokenizers.collisions.RULES`


class PosteriorSource(NamedTuple):
    """A trained model that has a posterior for histories."""

    model: Model
    item_text_vectors: np.ndarray | None  # (N, E), where it reads language: a history's is the direction of their sum


class Member(NamedTuple):
    """A trained model that takes part in an ensemble."""

    name: str
    model: Model


class TrainingData(NamedTuple):
    """What a model may know of the data that it is trained on. Arrays may be mapped from disk."""

    interactions: Csr  # (M, N) of the training split; where items are cut, rows of it may be read from disk
    item_text_vectors: np.ndarray | None = None  # (N, E), where the run uses language
    user_text_vectors: np.ndarray | None = None  # (M, E)
    histories: Histories | None = None  # where the model reads the order of interactions
    item_embeddings: np.ndarray | None = None  # (N, any width), where the model's options ask for them
    item_text: np.ndarray | None = None  # (N, E) text vectors, where rows of the model's layers are made from them
    item_codes: ItemCodes | None = None  # where the model reads codes
    item_tokenizer: ItemTokenizer | None = None  # of these codes, where the run aligns distributions over codes
    posterior: PosteriorSource | None = None  # where the model's options name one
    members: tuple[Member, ...] = ()  # where the model is made of others
    state: Mapping[str, Tensor] | None = None  # of a saved model, where one is built to be loaded
    shards: ItemShards | None = None  # where the items are cut into shards

    @property
    def n_users(self) -> int:
        """M."""
        return self.interactions.n_rows

    @property
    def n_items(self) -> int:
        """N."""
        return self.interactions.n_cols

    @property
    def items(self) -> ItemShards:
        """How the items are cut, and which of them this process holds."""
        return ItemShards(self.n_items) if self.shards is None else self.shards

    def item_counts(self, first: int = 0, end: int | None = None) -> Tensor:
        """(end - first,) int64: how many interactions each of the items from ``first`` to ``end`` has; default: all."""
        if not isinstance(self.interactions, Csr):
            return self.interactions.item_counts(first, end)
        col, end = self.interactions.col, self.n_items if end is None else end
        if end - first < self.n_items:
            col = col[(col >= first) & (col < end)] - first
        return torch.bincount(col, minlength=end - first)

    def users(self, ids: Tensor) -> UserBatch:
        """The batch of the users ``ids`` (B,) int64, on the CPU. Where items are cut, text vectors are read of those
        users alone whose vectors this rank adds (see `ItemShards.own_rows`); the others are zeros.
        """
        vectors = self.user_text_vectors
        if vectors is None:
            text = None
        else:
            own = self.items.own_rows(len(ids))
            text = torch.zeros(len(ids), vectors.shape[1])
            text[own] = torch.from_numpy(np.array(vectors[ids[own].numpy()], dtype=np.float32))
        sequences = None if self.histories is None else self.histories.rows(ids)
        return UserBatch(ids, self.interactions.rows(ids), text, sequences)


class Step(NamedTuple):
    """The point in training at which a loss is computed."""

    number: int = 0  # of the optimiser's steps, from 0
    epoch: int = 1
    annealing: float = 1.0  # weight of the divergences, see `AnnealingConfig`


class Model(nn.Module, ABC):
    """Ranks items for users. ``state_dict()`` is all of its state."""

    reads_interactions: ClassVar[bool] = True
    """Whether `rank` reads ``interactions``; False for models that keep something of each user from training."""
    ranks_deep: ClassVar[bool] = True
    """Whether `rank` finds a hundred items about as quickly as ten."""

    def __init__(self) -> None:
        super().__init__()
        self.rank_items = ItemRanking()
        """Ranks by products with vectors of items, for `rank`."""

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers are."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def tied_items(self) -> Tensor | None:
        """(N,) int64, equal for items that the model can never tell apart, from 0 without gaps; None: there are none.

        `rank` orders them by number; evaluation gives means over all their orders, too.
        """
        return None

    @property
    def item_state(self) -> tuple[str, ...]:
        """Names of the entries of ``state_dict()`` with a row for each item, where the model can be carried over to
        other items (see `models.carry`); none: it cannot.
        """
        return ()

    @abstractmethod
    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k best items of each user.

        The module must be in evaluation mode (see `evaluating`): in training mode dropout and noise take part.

        Args:
            batch: B users.
            k: number of items for each.
            exclude: (B, N) items that are not ranked, such as those that a user has already.

        Returns:
            Scores (B, k), descending, and item numbers (B, k) int64; -inf and -1 where fewer than k items are left.

        Raises:
            DmrecError: the model cannot rank for such users.
        """

    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N) the scores by which `rank` orders the items.

        Raises:
            DmrecError: the model does not have scores of all items, or cannot rank for such users.
        """
        raise DmrecError(
            f"{type(self).__name__} does not score all items; autoencoders, ease, lightgcn and popularity do"
        )

    def log_likelihood(self, batch: UserBatch, items: Csr) -> Tensor:
        """(nnz,) log-probabilities of items (B, N), each as the next one of its user, in the order of the entries.

        Raises:
            DmrecError: the model has no such probabilities.
        """
        raise DmrecError(f"{type(self).__name__} has no probabilities of items; tiger and its relatives do")

    def item_vectors(self) -> Tensor:
        """(N, any width): one vector for each item, the one that the model ranks it by.

        Raises:
            DmrecError: the model has no such vectors.
        """
        raise DmrecError(
            f"{type(self).__name__} does not represent items by vectors; mult-vae, dmrec-m, lightgcn and others do"
        )

    def item_tables(self) -> list[Tensor]:
        """`item_vectors` of each shard of this process, (s, any width): not copied."""
        return [self.item_vectors()]

    def posterior(self, batch: UserBatch) -> tuple[Tensor, Tensor]:
        """Means and log-variances (B, D) of the Gaussian that is decoded for each user.

        Raises:
            DmrecError: the model is not a variational autoencoder.
        """
        raise DmrecError(f"{type(self).__name__} has no posterior; autoencoders do (mult-vae, dmrec-m ..)")

    def posterior_means(self, batch: UserBatch) -> dict[str, Tensor]:
        """The means (B, D) of all Gaussians that the model has of each user, by name; none if it has none."""
        del batch
        return {}


class Scorer(Protocol):
    """Gives the validation score of a model that was fitted with some settings."""

    def __call__(self, model: Model, /, **settings: float) -> float:
        """Higher is better."""
        ...


class ClosedFormModel(Model):
    """A model that is fitted in one call, without anything random."""

    @abstractmethod
    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Fits the model; where settings are to be chosen, those of the best ``score``, which are returned."""


class TrainedModel(Model):
    """A model that is trained by gradient descent over examples, each once an epoch."""

    n_examples: int
    draws_batches: bool = False
    """Whether `batch` draws from torch's global generator; else a thread may read batches ahead."""

    @abstractmethod
    def batch(self, index: Tensor) -> Any:
        """What `loss` needs of the examples ``index`` (B,) int64: tensors and named tuples of them, on the CPU."""

    @abstractmethod
    def loss(self, batch: Any, step: Step) -> Losses:
        """The loss of a batch and its parts, () each. The batch is on the model's device, which is not waited for."""

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """Groups for the optimiser; default: all parameters at the configured rate.

        Groups of one ``"name"`` are clipped together, and their learning rate follows the schedule in those epochs in
        which they learn.
        """
        return [{"params": list(self.parameters()), "lr": learning_rate}]

    def learning(self, epoch: int) -> Collection[str] | None:
        """The names of the groups that learn in an epoch of the phase, counted from 1; default, None: all."""
        del epoch
        return None

    def metrics(self) -> dict[str, Tensor]:
        """Further values of the last batch for the log, () each; default: none."""
        return {}

    def begin_phase(self, phase: Phase) -> None:
        """Called before `parameter_groups` when a phase begins or goes on after a stop; default: nothing."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of an epoch, or the next after a stop, counted within the phase; default:
        nothing.
        """

    def end_epoch(self, epoch: int) -> Mapping[str, float]:
        """Called after the last batch of an epoch; returns further values for the log; default: none."""
        del epoch
        return {}


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode, without gradients, for as long as the context lasts."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class ModelConfig(Options):
    """Options of a model. The default of ``kind`` is the model's name in configurations."""

    kind: str

    is_random: ClassVar[bool] = True  # whether figures depend on the seed
    reads_sequences: ClassVar[bool] = False  # whether the model is given the order of interactions
    has_likelihood: ClassVar[bool] = False  # whether the model has `Model.log_likelihood`
    unsharded: ClassVar[str | None] = "its items cannot be cut into shards"  # why; None: they can be

    def refusal(self, n_users: int, n_items: int) -> str | None:
        """Why the model cannot be used on data of this size; default: it can."""
        del n_users, n_items
        return None

    @abstractmethod
    def build(self, data: TrainingData) -> Model:
        """The model; initial weights follow torch's global seed."""


class WithItemEmbeddings(ModelConfig):
    """Options of a model that is built from vectors of the items."""

    item_embeddings: str | None = Field(
        None,
        description="vectors of items that the model is built from: text vectors of the dataset by name, or the folder "
        "of another run; default: the text vectors of the language model, or the only ones of the dataset",
    )

    @property
    def uses_item_embeddings(self) -> bool:
        """Whether they are needed, given the other options."""
        return True


class WithTextVectors(ModelConfig):
    """Options of a model that reads text vectors of users and items."""

    vectors: str | None = Field(
        None, description="text vectors of the dataset, by name (dmrec embed); default: the only ones"
    )


class WithItemCodes(ModelConfig):
    """Options of a model that reads codes of the items (semantic IDs)."""

    codes: str | None = Field(
        None, description="codes of the items, by their name in the dataset (dmrec tokenize); default: the only ones"
    )


class WithPosterior(WithItemCodes):
    """Options of a model over codes that may read the posterior that another model has of a history."""

    posterior: str | None = Field(
        None,
        description="the folder of a run (mult-vae, dmrec-m ..) whose posterior of the history's items is read, "
        "too; that run must stay where it is",
    )


class OfRuns(ModelConfig):
    """Options of a model that is made of trained ones."""

    runs: tuple[str, ...] = Field(
        (), description="the folders of two runs or more on the dataset; they must stay where they are"
    )
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (), description="a weight for each run; default: those with the best score on validation"
    )


MODELS: dict[str, type[ModelConfig]] = {}
"""By ``kind``: the models that a configuration may name."""

AnyConfig = TypeVar("AnyConfig", bound=ModelConfig)


def register(config: type[AnyConfig]) -> type[AnyConfig]:
    """Class decorator that makes a model known by the ``kind`` of its options."""
    MODELS[config.model_fields["kind"].default] = config
    return config

"""A generative recommender as `Vae` and DMRec train it: an encoder with a Gaussian posterior, and a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmrec_ext import Csr, multinomial_nll

from ...errors import DmrecError
from ...sharding.items import ItemShards
from ..base import Step
from ..ranking import ItemRanking
from .gaussian import Gaussian


class Decoded(NamedTuple):
    """The decoder without its last product: the scores of all items are ``hidden @ weight.T + bias``.

    A backbone never forms the (B, N) scores; the loss and the ranking do, tile by tile.
    """

    hidden: Tensor  # (B, H)
    weight: Tensor  # (N, H)
    bias: Tensor | None  # (N,)

    def nll(self, x: Csr) -> Tensor:
        """() the mean negative log-likelihood of x (B, N)."""
        return multinomial_nll(self.hidden, self.weight, x, self.bias)

    def rank(self, ranking: ItemRanking, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """Scores and numbers (B, k) of the best items."""
        return ranking(self.hidden, self.weight, k, bias=self.bias, exclude=exclude)

    def scores(self) -> Tensor:
        """(B, N)."""
        return self.hidden @ self.weight.T if self.bias is None else torch.addmm(self.bias, self.hidden, self.weight.T)

    def whole(self) -> Decoded:
        """For all items."""
        return self

    def tables(self) -> Sequence[Tensor]:
        """(N, H), alone."""
        return (self.weight,)


class ShardedDecoded(NamedTuple):
    """`Decoded` for items that are cut into shards: the rows of the shards of this rank."""

    items: ItemShards
    hidden: Tensor  # (B, H)
    weights: Sequence[Tensor]  # (s, H) each
    biases: Sequence[Tensor]  # (s,) each

    def nll(self, x: Csr) -> Tensor:
        """() the mean negative log-likelihood of x (B, N)."""
        return self.items.nll(self.hidden, self.weights, x, self.biases)

    def rank(self, ranking: ItemRanking, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """Scores and numbers (B, k) of the best items."""
        del ranking  # it keeps what it prepared of the items, for which a large catalogue has no room
        return self.items.rank(self.hidden, self.weights, k, self.biases, exclude)

    def tables(self) -> Sequence[Tensor]:
        """(s, H) of each shard of this rank."""
        return self.weights

    def whole(self) -> Decoded:
        """For all items.

        Raises:
            DmrecError: this process does not hold all of them.
        """
        if self.items.ranks.size > 1:
            raise DmrecError("scores and vectors of all items need one process that holds them: leave out --ranks")
        return Decoded(self.hidden, torch.cat(list(self.weights)), torch.cat(list(self.biases)))


class Reconstruction(NamedTuple):
    """The training output for a batch."""

    decoded: Decoded | ShardedDecoded
    auxiliary: Tensor | None  # () added to the loss


class Backbone(nn.Module, ABC):
    """A generative recommender: two abstract methods, and hooks for what differs from a plain VAE.

    State other than parameters belongs in buffers, so that checkpoints hold it.
    """

    latent: int  # D
    input_dropout: float = 0.0  # of the interactions that the encoder and the meta-network are given
    item_state: tuple[str, ...] = ()  # names of the entries of state_dict() with a row for each item

    @abstractmethod
    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior for interactions ``x`` (B, N). ``dropped``: the same after input dropout (in training)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Decoded | ShardedDecoded:
        """Latent vectors (B, D) to scores of all items, without the last product."""

    def infer(self, posterior: Gaussian) -> Tensor:
        """The latent vector (B, D) that a prediction is decoded from; default: the mean."""
        return posterior.mu

    def reconstruct(self, posterior: Gaussian, step: Step) -> Reconstruction:
        """What training decodes, and a loss term of the backbone's own if it has one; default: a sample, no term."""
        del step
        return Reconstruction(self.decode(posterior.sample()), None)

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """Groups for the optimiser; default: all parameters at the configured rate."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

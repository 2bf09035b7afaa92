"""What DMRec asks of a generative recommender: an encoder with a Gaussian posterior, and a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from dmrec_ext import Csr

from .gaussian import Gaussian


class Decoded(NamedTuple):
    """The decoder but for its last product: scores of all items are ``hidden @ weight.T + bias``.

    They are never formed by a backbone; the loss and the ranking take it from here.
    """

    hidden: Tensor  # (B, H)
    weight: Tensor  # (N, H)
    bias: Tensor | None  # (N,)


class Moment(NamedTuple):
    """When in training: for terms that are annealed."""

    step: int
    epoch: int


class Reconstruction(NamedTuple):
    """The training output for a batch."""

    decoded: Decoded
    auxiliary: Tensor | None  # () added to the loss


class Backbone(nn.Module, ABC):
    """A generative recommender. One file each: the two abstract methods, and those hooks that it needs.

    State beside parameters belongs in buffers, so that checkpoints carry it.
    """

    latent: int  # D
    input_dropout: float = 0.0  # of the interactions that the encoder and the meta-network are given

    @abstractmethod
    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior of (B, N) interactions. ``dropped``: the same after input dropout (in training)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Decoded:
        """(B, D) latent vectors to scores of all items, but for the last product."""

    def infer(self, posterior: Gaussian) -> Tensor:
        """The latent vector that a prediction is decoded from; default: the mean."""
        return posterior.mu

    def reconstruct(self, posterior: Gaussian, moment: Moment) -> Reconstruction:
        """What training decodes, with a loss term of the backbone's own if it has one; default: a sample."""
        del moment
        return Reconstruction(self.decode(posterior.sample()), None)

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """Groups for the optimiser; default: all parameters at the configured rate."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

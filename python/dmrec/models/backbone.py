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


class Backbone(nn.Module, ABC):
    """A generative recommender. One file each: the two abstract methods, and those hooks that it needs.

    State beside parameters belongs in buffers, so that checkpoints carry it.
    """

    latent: int  # D
    input_dropout: float = 0.0  # of the interactions that the encoder and the meta-network are given
    batch_size: int | None = None  # what the model was published with, where it differs from the default

    @abstractmethod
    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior of (B, N) interactions. ``dropped``: the same after input dropout (in training)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Decoded:
        """(B, D) latent vectors to scores of all items, but for the last product."""

    def infer(self, posterior: Gaussian) -> Tensor:
        """The latent vector that a prediction is made from; default: the mean."""
        return posterior.mu

    def auxiliary_loss(self, z: Tensor) -> Tensor | None:
        """A term of the backbone's own, added to the loss."""
        del z
        return None

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """Groups for the optimiser; default: all parameters at the configured rate."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

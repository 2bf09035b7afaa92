"""A generative recommender as `Vae` and DMRec train it: an encoder with a Gaussian posterior, and a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from dmrec_ext import Csr

from ..base import Step
from .gaussian import Gaussian


class Decoded(NamedTuple):
    """The decoder without its last product: the scores of all items are ``hidden @ weight.T + bias``.

    A backbone never forms the (B, N) scores; the loss and the ranking do, tile by tile.
    """

    hidden: Tensor  # (B, H)
    weight: Tensor  # (N, H)
    bias: Tensor | None  # (N,)


class Reconstruction(NamedTuple):
    """The training output for a batch."""

    decoded: Decoded
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
    def decode(self, z: Tensor) -> Decoded:
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

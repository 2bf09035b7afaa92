"""CVGA (Zhang et al., TOIS 2023): a variational graph autoencoder, one propagation over users and items to encode.

Encoder: H = R W + b with R = D_u^{-1/2} X D_i^{-1/2}, degrees counted in the training interactions; tanh and further
layers where ``hidden`` names widths; then dropout, and the halves are mean and log-variance. Decoder: one linear layer.
A user's row of R is all that the encoder needs of the graph, so batches of users work as in any autoencoder.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr

from .backbone import Backbone, Decoded
from .gaussian import Gaussian
from .layers import Initialisation, SparseLinear, initialise
from .registry import BackboneConfig, TrainingData, register


@register
class CvgaConfig(BackboneConfig):
    """CVGA."""

    kind: Literal["cvga"] = "cvga"
    latent: int = Field(64, ge=1, description="dimensions of the posteriors")
    hidden: tuple[int, ...] = Field((), description="widths of layers before the posterior, with tanh between")
    dropout: float = Field(0.3, ge=0, lt=1, description="of the posterior's parameters, and of what language sees")
    initialisation: Initialisation = "torch"

    def build(self, data: TrainingData) -> Cvga:
        """The network, its weights drawn."""
        degree = torch.bincount(data.train.col, minlength=data.train.n_cols)
        model = Cvga(degree, latent=self.latent, hidden=self.hidden, dropout=self.dropout)
        initialise(model, self.initialisation)
        return model


class Cvga(Backbone):
    """The encoder drops its output, not its input; the meta-network gets interactions with dropout of its own."""

    scale: Tensor  # (N,) 1 / sqrt(degree of an item), 0 for one without

    def __init__(self, degree: Tensor, *, latent: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.latent, self.input_dropout = latent, dropout
        self.register_buffer("scale", degree.clamp_min(1).rsqrt() * (degree > 0))
        widths = [*hidden, 2 * latent]
        self.propagation = SparseLinear(len(degree), widths[0])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(latent, len(degree))

    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior from a user's row of R."""
        del dropped
        of_user = x.crow.diff().clamp_min(1).rsqrt()
        hidden = self.propagation(x._replace(values=of_user[x.row_of_entry()] * self.scale[x.col]))
        for layer in self.layers:
            hidden = layer(torch.tanh(hidden))
        return Gaussian.from_output(self.dropout(hidden))

    def decode(self, z: Tensor) -> Decoded:
        """z itself: the decoder has no hidden layer."""
        return Decoded(z, self.decoder.weight, self.decoder.bias)

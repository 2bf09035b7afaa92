"""CVGA (Zhang et al., TOIS 2023): a variational graph autoencoder, one propagation over users and items to encode.

Encoder: H = R W + b with R = D_u^{-1/2} X D_i^{-1/2}, degrees counted in the training interactions; tanh and further
layers where ``hidden`` names widths; then dropout, and the halves are mean and log-variance. Decoder: one linear layer.
A user's row of R is all that the encoder needs of the graph, so batches of users work as in any autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr

from ...options import SearchSpace
from ...sharding.items import ItemShards
from ..base import TrainingData, register
from .backbone import Backbone, Decoded, ShardedDecoded
from .gaussian import Gaussian
from .item_text import ItemInput, ItemLinear, ItemTexts
from .layers import Initialisation, initialise
from .model import BackboneConfig


@register
class CvgaConfig(BackboneConfig):
    """CVGA."""

    kind: Literal["cvga"] = "cvga"
    latent: int = Field(64, ge=1, description="dimensions of the posteriors")
    hidden: tuple[int, ...] = Field((), description="widths of layers before the posterior, with tanh between")
    dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="of the posterior's parameters, and of the interactions that the meta-network is given",
    )
    initialisation: Initialisation = "torch"

    unsharded: ClassVar[str | None] = None
    width: ClassVar[str | None] = "latent"
    search_space: ClassVar[SearchSpace] = {
        "dropout": {"low": 0.0, "high": 0.7},
        "latent": {"choices": [64, 100, 200, 300]},
    }

    @property
    def table_widths(self) -> tuple[int, int]:
        """The first layer's and the latent one's."""
        return (*self.hidden, 2 * self.latent)[0], self.latent

    def backbone(self, data: TrainingData) -> Cvga:
        """The network; initial weights follow torch's global seed."""
        return Cvga(data.items, data.item_counts, self, self.texts(data))


class Cvga(Backbone):
    """The encoder drops its output, not its input; the meta-network gets interactions with dropout of its own."""

    item_state = ("scale", "propagation.weight", "decoder.weight", "decoder.bias")

    scale: Tensor  # (N,) 1 / sqrt(degree of an item); 0 for one without, unless texts are read

    def __init__(
        self,
        items: ItemShards,
        counts: Callable[[int, int], Tensor],
        options: CvgaConfig,
        texts: ItemTexts | None = None,
    ) -> None:
        """``counts(first, end)``: (end - first,) int64, how many training interactions each of these items has."""
        super().__init__()
        self.items = items
        self.latent, self.input_dropout = options.latent, options.dropout
        reads_text = options.item_text is not None and options.item_text.encoder

        def scale(first: int, end: int) -> Tensor:
            degree = counts(first, end)
            there = degree > 0 if not reads_text else torch.ones_like(degree)  # an item without a degree has a text
            return degree.clamp_min(1).rsqrt() * there

        items.add_buffer(self, "scale", scale, persistent=True)
        widths = [*options.hidden, 2 * options.latent]
        self.propagation = ItemInput(items, widths[0], texts, options.item_text)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(options.dropout)
        self.decoder = ItemLinear(options.latent, items, texts, options.item_text)
        initialise(self, options.initialisation, items)

    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior from a user's row of R."""
        del dropped
        of_user = x.crow.diff().clamp_min(1).rsqrt()
        parts = zip(self.items.split(x), self.items.tensors(self, "scale"), strict=True)
        normalized = [part._replace(values=of_user[part.row_of_entry()] * scale[part.col]) for part, scale in parts]
        hidden = self.propagation.of_parts(normalized)
        for layer in self.layers:
            hidden = layer(torch.tanh(hidden))
        return Gaussian.from_output(self.dropout(hidden))

    def decode(self, z: Tensor) -> Decoded | ShardedDecoded:
        """The hidden layer is z itself: the decoder is one linear layer."""
        return self.decoder.decoded(z)

"""Mult-VAE (Liang et al., WWW 2018): encoder N-H-2D, decoder D-H-N, tanh between."""

from __future__ import annotations

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
from .layers import Initialisation, initialise, unit_rows
from .model import BackboneConfig


@register
class MultVaeConfig(BackboneConfig):
    """Mult-VAE."""

    kind: Literal["mult-vae"] = "mult-vae"
    hidden: int = Field(600, ge=1, description="width of the hidden layers of encoder and decoder")
    latent: int = Field(200, ge=1, description="dimensions of the posteriors")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of a user's interactions that is dropped in training")
    normalise: bool = Field(False, description="divide a user's interactions by their Euclidean norm")
    initialisation: Initialisation = "torch"

    unsharded: ClassVar[str | None] = None
    width: ClassVar[str | None] = "hidden"
    search_space: ClassVar[SearchSpace] = {
        "dropout": {"low": 0.0, "high": 0.7},
        "hidden": {"choices": [200, 400, 600, 800]},
        "latent": {"choices": [64, 100, 200, 300]},
    }

    @property
    def table_widths(self) -> tuple[int, int]:
        """The hidden layers'."""
        return self.hidden, self.hidden

    def backbone(self, data: TrainingData) -> MultVae:
        """The network; initial weights follow torch's global seed."""
        return MultVae(data.items, self, self.texts(data))


class MultVae(Backbone):
    """Sparse in, sparse out: the first layer sums rows of its weight, the last product is left to the caller."""

    item_state = ("encoder_input.weight", "decoder_output.weight", "decoder_output.bias")

    def __init__(self, items: ItemShards, options: MultVaeConfig, texts: ItemTexts | None = None) -> None:
        super().__init__()
        hidden, latent = options.hidden, options.latent
        self.latent, self.input_dropout, self.normalise = latent, options.dropout, options.normalise
        self.encoder_input = ItemInput(items, hidden, texts, options.item_text)
        self.encoder_output = nn.Linear(hidden, 2 * latent)
        self.decoder_input = nn.Linear(latent, hidden)
        self.decoder_output = ItemLinear(hidden, items, texts, options.item_text)
        initialise(self, options.initialisation, items)

    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior from the dropped interactions, L2-normalised if so configured (before dropout, as published)."""
        if self.normalise:
            unit = unit_rows(x)
            values = unit.values if dropped.values is None or unit.values is None else unit.values * dropped.values
            dropped = dropped._replace(values=values)
        hidden = torch.tanh(self.encoder_input(dropped))
        return Gaussian.from_output(self.encoder_output(hidden))

    def decode(self, z: Tensor) -> Decoded | ShardedDecoded:
        """All but the last product."""
        return self.decoder_output.decoded(torch.tanh(self.decoder_input(z)))

"""Mult-VAE (Liang et al., WWW 2018): encoder N-H-2D, decoder D-H-N, tanh between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmrec_ext import Csr

from .backbone import Backbone, Decoded
from .gaussian import Gaussian
from .layers import SparseLinear, unit_rows


class MultVae(Backbone):
    """Sparse in, sparse out: the first layer sums rows of its weight, the last product is left to the caller."""

    def __init__(self, n_items: int, *, hidden: int, latent: int, dropout: float, normalise: bool) -> None:
        super().__init__()
        self.latent, self.input_dropout, self.normalise = latent, dropout, normalise
        self.encoder_input = SparseLinear(n_items, hidden)
        self.encoder_output = nn.Linear(hidden, 2 * latent)
        self.decoder_input = nn.Linear(latent, hidden)
        self.decoder_output = nn.Linear(hidden, n_items)

    def encode(self, x: Csr, dropped: Csr) -> Gaussian:
        """Posterior from the dropped interactions, L2-normalised if so configured (before dropout, as published)."""
        if self.normalise:
            unit = unit_rows(x)
            values = unit.values if dropped.values is None or unit.values is None else unit.values * dropped.values
            dropped = dropped._replace(values=values)
        hidden = torch.tanh(self.encoder_input(dropped))
        return Gaussian.from_output(self.encoder_output(hidden))

    def decode(self, z: Tensor) -> Decoded:
        """All but the last product."""
        output = self.decoder_output
        return Decoded(torch.tanh(self.decoder_input(z)), output.weight, output.bias)

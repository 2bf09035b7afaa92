"""The probabilistic meta-network: Eq. 6 and 7, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dmrec_ext import Csr

from ...sharding.items import ItemShards
from ..vae.gaussian import Gaussian
from ..vae.layers import initialise
from .options import LanguageConfig


class MetaNetwork(nn.Module):
    """Language posterior of a user: g = W_I^T x_u + w_u, then Linear-Tanh-Linear to mean and log-variance.

    With ``aggregate: false``, the ablation without the sum over items, g = w_u.
    """

    item_vectors: Tensor  # (N, E) float32, where the items are not cut; of shards, in the dtype of the data

    def __init__(self, items: ItemShards, item_vectors: np.ndarray, options: LanguageConfig, latent: int) -> None:
        super().__init__()
        self.items, self.aggregate = items, options.aggregate

        # The vectors are the dataset's: neither trained nor part of checkpoints. float32 arrays stay mapped from disk.
        # float16 arrays become float32 in memory, because every batch sums many of their rows; those of items that are
        # cut, which are read seldom and need much memory, stay as they are.
        def vectors(first: int, end: int) -> Tensor:
            rows = np.asarray(item_vectors[first:end])
            return torch.from_numpy(rows.astype(np.float32, copy=False) if items.is_whole else rows)

        items.add_buffer(self, "item_vectors", vectors, persistent=False)
        self.width, hidden = int(item_vectors.shape[1]), options.hidden
        self.network = nn.Sequential(nn.Linear(self.width, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        initialise(self, options.initialisation)

    def forward(self, dropped: Csr, text_vectors: Tensor) -> Gaussian:
        """Posterior of users with ``text_vectors`` (B, E) and interactions ``dropped`` (B, N) after input dropout."""
        if self.aggregate:
            tables = self.items.tensors(self, "item_vectors")
            semantic = self.items.aggregate(self.items.split(dropped), tables, own=text_vectors)
        else:
            semantic = self.items.ranks.sum(text_vectors)  # each rank has read those of its own users
        return Gaussian.from_output(self.network(semantic))

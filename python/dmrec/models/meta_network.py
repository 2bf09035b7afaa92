"""The probabilistic meta-network: Eq. 6 and 7, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate

from .gaussian import Gaussian


class MetaNetwork(nn.Module):
    """Language posterior of a user: g = W_I^T x_u + w_u, then Linear-Tanh-Linear to mean and log-variance.

    ``aggregate=False`` is the ablation without the meta-network: g = w_u alone.
    """

    item_vectors: Tensor  # (N, E) float32

    def __init__(
        self, item_vectors: np.ndarray, user_vectors: np.ndarray, *, hidden: int, latent: int, aggregate: bool
    ) -> None:
        super().__init__()
        self.aggregate = aggregate
        # The dataset's, not the model's: neither trained nor kept in checkpoints. Both stay where they are, mapped from
        # disk; but float16 vectors of items, of which a batch sums many, become float32 in memory.
        items = torch.from_numpy(np.asarray(item_vectors, dtype=np.float32))
        self.register_buffer("item_vectors", items, persistent=False)
        self.user_vectors = user_vectors  # (M, E)
        self.network = nn.Sequential(nn.Linear(item_vectors.shape[1], hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))

    def of_users(self, users: Tensor) -> Tensor:
        """w_u of the users (B,) int64: (B, E) float32."""
        return torch.from_numpy(np.array(self.user_vectors[users.cpu().numpy()], dtype=np.float32)).to(users.device)

    def forward(self, dropped: Csr, vectors: Tensor) -> Gaussian:
        """Posterior of users with ``vectors`` (B, E), whose interactions after input dropout are ``dropped`` (B, N)."""
        semantic = csr_aggregate(dropped, self.item_vectors, vectors) if self.aggregate else vectors
        return Gaussian.from_output(self.network(semantic))

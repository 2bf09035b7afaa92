"""The probabilistic meta-network: Eq. 6 and 7, Zhang et al., SIGIR 2025."""

from __future__ import annotations

from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate

from .gaussian import Gaussian


class MetaNetwork(nn.Module):
    """Language posterior of a user: g = W_I^T x_u + w_u, then Linear-Tanh-Linear to mean and log-variance.

    ``aggregate=False`` is the ablation without the meta-network: g = w_u alone.
    """

    item_vectors: Tensor  # (N, E)
    user_vectors: Tensor  # (M, E)

    def __init__(
        self, item_vectors: Tensor, user_vectors: Tensor, *, hidden: int, latent: int, aggregate: bool
    ) -> None:
        super().__init__()
        self.aggregate = aggregate
        # the dataset's, not the model's: neither trained nor kept in checkpoints
        self.register_buffer("item_vectors", item_vectors, persistent=False)
        self.register_buffer("user_vectors", user_vectors, persistent=False)
        self.network = nn.Sequential(nn.Linear(item_vectors.shape[1], hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))

    def forward(self, dropped: Csr, users: Tensor) -> Gaussian:
        """Posterior of the users (B,) int64, whose interactions after input dropout are ``dropped`` (B, N)."""
        semantic = self.user_vectors[users]
        if self.aggregate:
            semantic = csr_aggregate(dropped, self.item_vectors, semantic)
        return Gaussian.from_output(self.network(semantic))

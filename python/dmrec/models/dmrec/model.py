"""DMRec: Algorithm 1, Zhang et al., SIGIR 2025, around any generative recommender.

A step, for the users u of a batch:

    1. q_c = N(mu_c, sigma_c^2) = encoder(x_u)                      the collaborative posterior
    2. q_l = N(mu_l, sigma_l^2) = meta-network(W_I^T x_u + w_u)     the language posterior (Eq. 6, 7)
    3. q   = fusion of both                                         what is decoded (Eq. 8)
    4. z ~ q, and the multinomial likelihood of x_u given z         the reconstruction
    5. L_DM(q_c, q_l): regulariser and matching term (Eq. 19)       at its annealed weight
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..base import Losses, Step, TrainingData, UserBatch
from ..vae.backbone import Backbone
from ..vae.gaussian import Gaussian
from ..vae.layers import without_rows
from ..vae.model import Vae, total
from .matching import Posteriors, matching_of
from .meta_network import MetaNetwork
from .options import LanguageConfig, MatchingConfig


class Dmrec(Vae):
    """A variational autoencoder with a second posterior for each user, from language, that is matched with its own."""

    def __init__(
        self, backbone: Backbone, data: TrainingData, language: LanguageConfig, matching: MatchingConfig
    ) -> None:
        super().__init__(backbone, data)
        assert data.item_text_vectors is not None, "a run with language has text vectors"
        self.meta_network = MetaNetwork(data.items, data.item_text_vectors, language, backbone.latent)
        self.fusion, self.alone = language.fusion, language.alone
        self.draws_batches = language.alone > 0
        self.matching = matching_of(matching, language.fusion)
        self._last: Posteriors | None = None

    def batch(self, index: Tensor) -> UserBatch:
        """The users ``index``; for a random share of them, ``language.alone``, without what they interacted with."""
        batch = super().batch(index)
        if not self.alone:
            return batch
        return batch._replace(given=without_rows(batch.interactions, torch.rand(batch.size) < self.alone))

    def loss(self, batch: UserBatch, step: Step) -> Losses:
        """Steps 1 to 5; parts ``reconstruction`` and ``matching``."""
        q = self._last = self.posteriors(batch)
        parts = self.reconstruction(batch.interactions, q.fused, step)
        beta = self.matching.draw_beta()
        return total(parts, "matching", lambda weight: self.matching.loss(q, beta, weight), step)

    def posteriors(self, batch: UserBatch) -> Posteriors:
        """Steps 1 to 3. Encoder and meta-network share a dropout mask; users without a text have the zero vector."""
        x = batch.interactions if batch.given is None else batch.given
        dropped = self.dropped(x)
        text_vectors = batch.text_vectors
        if text_vectors is None:
            text_vectors = torch.zeros(batch.size, self.meta_network.width, device=self.device)
        collaborative = self.backbone.encode(x, dropped)
        language = self.meta_network(dropped, text_vectors)
        fused = collaborative + language if self.fusion == "add" else collaborative
        return Posteriors(collaborative, language, fused)

    def posterior(self, batch: UserBatch) -> Gaussian:
        """The fused posterior of each user."""
        return self.posteriors(batch).fused

    def posterior_means(self, batch: UserBatch) -> dict[str, Tensor]:
        """Those of the collaborative, the language and the fused posterior."""
        return {name: gaussian.mu for name, gaussian in self.posteriors(batch)._asdict().items()}

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """The groups of the backbone, and the meta-network at the configured rate."""
        return [*super().parameter_groups(learning_rate), {"params": list(self.meta_network.parameters())}]

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor]:
        """The divergences of the last batch, one by one."""
        return {} if self._last is None else self.matching.terms(self._last)

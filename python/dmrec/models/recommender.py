"""One class makes every prediction: in training, in evaluation, in recommendation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmrec_ext import Csr, rank_topk

from .backbone import Backbone
from .gaussian import Gaussian
from .layers import drop_interactions
from .meta_network import MetaNetwork


class Posteriors(NamedTuple):
    """The Gaussians of a batch: the backbone's, language's (if there is one), and what is decoded from."""

    collaborative: Gaussian
    language: Gaussian | None
    fused: Gaussian


class Recommender(nn.Module):
    """A backbone, with or without the meta-network, and the fusion of the two posteriors."""

    def __init__(
        self, backbone: Backbone, meta_network: MetaNetwork | None, fusion: str, precision: str = "float32"
    ) -> None:
        super().__init__()
        self.backbone, self.meta_network, self.fusion = backbone, meta_network, fusion
        self.precision = precision  # of the products of a ranking, which its order does not depend on

    def posteriors(self, x: Csr, users: Tensor) -> Posteriors:
        """Posteriors of users (B,) with interactions x (B, N)."""
        return self._posteriors(x, None if self.meta_network is None else self.meta_network.of_users(users))

    def _posteriors(self, x: Csr, vectors: Tensor | None) -> Posteriors:
        """One dropout mask for encoder and meta-network."""
        dropped = drop_interactions(x, self.backbone.input_dropout) if self.training else x
        collaborative = self.backbone.encode(x, dropped)
        if self.meta_network is None or vectors is None:
            return Posteriors(collaborative, None, collaborative)
        language = self.meta_network(dropped, vectors)
        fused = collaborative + language if self.fusion == "add" else collaborative
        return Posteriors(collaborative, language, fused)

    @torch.no_grad()
    def rank(self, x: Csr, users: Tensor, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The k best items of each user by their scores in float32, whatever the model was trained with."""
        self.eval()  # no noise, no dropout
        return self._rank(self.posteriors(x, users), k, exclude)

    @torch.no_grad()
    def rank_new(self, x: Csr, vectors: Tensor | None, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The same for users who were not there in training: ``vectors`` (B, E) of their texts, zeros without one."""
        self.eval()
        if self.meta_network is not None and vectors is None:
            vectors = torch.zeros(x.n_rows, self.meta_network.item_vectors.shape[1])
        return self._rank(self._posteriors(x, vectors), k, exclude)

    def _rank(self, posteriors: Posteriors, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        hidden, weight, bias = self.backbone.decode(self.backbone.infer(posteriors.fused))
        return rank_topk(hidden, weight, k, bias=bias, exclude=exclude, precision=self.precision)

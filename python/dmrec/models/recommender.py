"""One class makes every prediction: in training, in evaluation, in recommendation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmrec_ext import Csr, rank_topk

from .backbone import Backbone, Decoded
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
        """Posteriors of users (B,) with interactions x (B, N); one dropout mask for encoder and meta-network."""
        dropped = drop_interactions(x, self.backbone.input_dropout) if self.training else x
        collaborative = self.backbone.encode(x, dropped)
        if self.meta_network is None:
            return Posteriors(collaborative, None, collaborative)
        language = self.meta_network(dropped, users)
        fused = collaborative + language if self.fusion == "add" else collaborative
        return Posteriors(collaborative, language, fused)

    def predict(self, x: Csr, users: Tensor) -> Decoded:
        """Scores of all items but for the last product; no noise, no dropout."""
        self.eval()
        return self.backbone.decode(self.backbone.infer(self.posteriors(x, users).fused))

    @torch.no_grad()
    def rank(self, x: Csr, users: Tensor, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """The k best items of each user by their scores in float32, whatever the model was trained with."""
        hidden, weight, bias = self.predict(x, users)
        return rank_topk(hidden, weight, k, bias=bias, exclude=exclude, precision=self.precision)

"""RLMRec-G (Ren et al., WWW 2024): LightGCN from whose smoothed vectors the texts of masked nodes are told.

In a step the embeddings of a random share ``mask`` of the nodes are replaced by one learned vector before propagation;
the pairs learn from these smoothed vectors. With g a network from vectors to the width of texts, the step adds
``weight`` times the mean over masked nodes s of InfoNCE(g(e_s), w_s) over cosines, the other masked nodes' texts, of
users and items alike, being the negatives. Nothing is masked in the ranking.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ...options import SearchSpace
from ..base import Losses, TrainingData, register
from ..info_nce import info_nce
from .pairs import Pairs
from .text import TextGraphConfig, TextGraphModel, two_layers


@register
class RlmrecGConfig(TextGraphConfig):
    """RLMRec-G."""

    kind: Literal["rlmrec-g"] = "rlmrec-g"
    weight: float = Field(0.1, ge=0, description="of the reconstruction of texts")
    temperature: float = Field(0.5, gt=0, description="tau, of the reconstruction of texts")
    mask: float = Field(0.15, gt=0, lt=1, description="share of the nodes that are masked in a step")
    floor: float = Field(
        0.0, ge=0, description="added to probabilities before their logarithm; the released code has 1e-8"
    )

    search_space: ClassVar[SearchSpace] = {
        **TextGraphConfig.search_space,
        "weight": {"low": 1e-4, "high": 1.0, "log": True},
        "temperature": {"low": 0.05, "high": 1.0, "log": True},
        "mask": {"low": 0.01, "high": 0.3},
    }

    def build(self, data: TrainingData) -> RlmrecG:
        """The model; initial values follow torch's global seed."""
        return RlmrecG(data, self)


class RlmrecG(TextGraphModel):
    """LightGCN that reconstructs the texts of masked nodes."""

    options: RlmrecGConfig

    def __init__(self, data: TrainingData, options: RlmrecGConfig) -> None:
        super().__init__(data, options)
        self.token = nn.Parameter(torch.zeros(1, options.embedding_dim))
        self.network = two_layers(options.embedding_dim, self.item_texts.shape[1])
        self._masked = torch.zeros(0, dtype=torch.int64)  # of the last step, on its device
        self._n_masked_users = 0

    def training_initial(self) -> Tensor:
        """(M + N, d): the embeddings, those of masked nodes replaced."""
        n = len(self.vectors)
        masked = torch.randperm(n)[: max(1, int(n * self.options.mask))].sort().values
        self._masked, self._n_masked_users = masked.to(self.device), int((masked < self.n_users).sum())
        hidden = torch.zeros(n, 1, dtype=torch.bool, device=self.device).index_fill_(0, self._masked, True)
        return torch.where(hidden, self.token, self.vectors)

    def further(self, batch: Pairs, chosen: Tensor, nodes: Tensor) -> Losses:
        """``reconstruction``."""
        del batch, chosen
        masked = self._masked
        users, items = masked[: self._n_masked_users], masked[self._n_masked_users :] - self.n_users
        texts = torch.cat([self.user_texts[users], self.item_texts[items]])
        told = self.network(nodes[masked] * self.scale)
        own = torch.arange(len(masked), device=masked.device)
        nll = info_nce(told, texts, own, self.options.temperature, floor=self.options.floor)
        return {"reconstruction": self.options.weight * nll}

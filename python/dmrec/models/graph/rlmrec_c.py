"""RLMRec-C (Ren et al., WWW 2024): LightGCN whose smoothed vectors are contrasted with the texts of the same nodes.

With f a network over text vectors, one for users and items, and nce the InfoNCE loss over cosines with temperature tau,
a step adds ``weight`` times the mean over the pairs (u, i, j) of

    nce(e_u, f(w_u); all users) + nce(e_i, f(w_i); items of the batch) + nce(e_j, f(w_j); negatives of the batch).

The pools are those of the released code: all users, but of the items those of the batch, with repetitions, so that a
popular item is among its own negatives (``item_pool: batch``). Texts have no part in the ranking.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...options import SearchSpace
from ..base import Losses, TrainingData, register
from ..info_nce import info_nce
from .pairs import Pairs
from .text import TextGraphConfig, TextGraphModel, two_layers


@register
class RlmrecCConfig(TextGraphConfig):
    """RLMRec-C."""

    kind: Literal["rlmrec-c"] = "rlmrec-c"
    weight: float = Field(1e-2, ge=0, description="of the contrast with texts")
    temperature: float = Field(0.2, gt=0, description="tau, of the contrast with texts")
    item_pool: Literal["batch", "unique", "all"] = Field(
        "batch", description="the items to tell apart: those of the batch, each of them once, or all of the catalogue"
    )

    search_space: ClassVar[SearchSpace] = {
        **TextGraphConfig.search_space,
        "weight": {"low": 1e-4, "high": 1.0, "log": True},
        "temperature": {"low": 0.05, "high": 1.0, "log": True},
    }

    def build(self, data: TrainingData) -> RlmrecC:
        """The model; initial values follow torch's global seed."""
        return RlmrecC(data, self)


class RlmrecC(TextGraphModel):
    """LightGCN with a contrast of nodes and their texts."""

    options: RlmrecCConfig

    def __init__(self, data: TrainingData, options: RlmrecCConfig) -> None:
        super().__init__(data, options)
        self.network = two_layers(self.item_texts.shape[1], options.embedding_dim)

    def further(self, batch: Pairs, chosen: Tensor, nodes: Tensor) -> Losses:
        """``alignment``."""
        del nodes
        user, item, negative = chosen.chunk(3)
        tau, pool = self.options.temperature, self.options.item_pool
        total = info_nce(user, self.network(self.user_texts), batch.user, tau)
        whole = pool == "all" or self.n_items < 2 * len(batch.item)  # less work than the items of the batch
        of_items = self.network(self.item_texts) if whole else None
        for vectors, items in ((item, batch.item), (negative, batch.negative)):
            if pool == "all":
                rows, own = None, items
            elif pool == "unique":
                rows, own = items.unique(return_inverse=True)
            else:
                rows, own = items, torch.arange(len(items), device=items.device)
            if of_items is not None:
                of_pool = of_items if rows is None else of_items[rows]
            else:
                of_pool = self.network(self.item_texts[rows])
            total = total + info_nce(vectors, of_pool, own, tau)
        return {"alignment": self.options.weight * total}

"""LightGCN (He et al., SIGIR 2020): embeddings of users and items, propagated over their graph, trained by pairs (BPR).

Two frames are in use. The authors' (the defaults): normal initial values, the mean of the layers, norms of the drawn
embeddings. That of RLMRec (Ren et al., WWW 2024), in which the language-enhanced models of DMRec's Table 3 were
compared (recipe `lightgcn-rlmrec`): Xavier, the sum of the layers, norms of all weights, a fifth of the edges dropped
in each step.

With initial values from text the model is LLMInit (Zhang et al., 2025): items start from ``embedding_dim`` of the
dimensions of their text vectors, users from the mean of their items.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate

from ...errors import DmrecError
from ..base import TrainingData, WithItemEmbeddings, register
from .model import GraphConfig, GraphModel

POPULAR = 0.2  # share of the items, by interactions, whose text vectors choose the dimensions of ``text-variance``


@register
class LightGcnConfig(GraphConfig, WithItemEmbeddings):
    """LightGCN."""

    kind: Literal["lightgcn"] = "lightgcn"
    initial: Literal["normal", "xavier", "text-variance", "text-uniform", "text-random"] = Field(
        "normal",
        description="initial embeddings: normal with deviation 0.1; Xavier, uniform, by table; or dimensions of the "
        "items' vectors: those of the largest variance among popular items, evenly spaced ones, random ones",
    )
    initial_scale: Literal["kept", "xavier"] = Field(
        "kept", description="of initial embeddings from text: as they are, or with the deviation that Xavier gives"
    )

    @property
    def uses_item_embeddings(self) -> bool:
        """Only for initial values from text."""
        return self.initial.startswith("text-")

    def build(self, data: TrainingData) -> LightGcn:
        """The embeddings; initial values follow torch's global seed."""
        return LightGcn(data, self)


class LightGcn(GraphModel):
    """The embeddings of all nodes before propagation are the model's weights."""

    def __init__(self, data: TrainingData, options: LightGcnConfig) -> None:
        super().__init__(data, options)
        from_text = options.uses_item_embeddings and data.item_embeddings is not None  # not for a model to be loaded
        made = _from_text(data, options) if from_text else None
        self.vectors = nn.Parameter(embeddings(data, options.embedding_dim, options.initial) if made is None else made)

    def initial(self) -> Tensor:
        """(M + N, d): the embeddings."""
        return self.vectors


def embeddings(data: TrainingData, width: int, initial: str) -> Tensor:
    """(M + N, width) random ones: ``"normal"`` with deviation 0.1, else Xavier, for users and items apart."""
    sizes = data.n_users, data.n_items
    if initial == "normal":
        return 0.1 * torch.randn(sum(sizes), width)
    return torch.cat([torch.empty(n, width).uniform_(-1, 1) * math.sqrt(6 / (n + width)) for n in sizes])


def _from_text(data: TrainingData, options: LightGcnConfig) -> Tensor:
    """(M + N, embedding_dim): LLMInit."""
    vectors, width = np.asarray(data.item_embeddings, dtype=np.float32), options.embedding_dim
    if width > vectors.shape[1]:
        raise DmrecError(
            f"model.embedding_dim: {width} dimensions cannot be taken from vectors {vectors.shape[1]} wide; "
            f"at most {vectors.shape[1]}"
        )
    if options.initial == "text-variance":
        degree = torch.bincount(data.interactions.col, minlength=data.n_items)
        popular = degree.argsort(descending=True, stable=True)[: max(1, int(POPULAR * data.n_items))]
        chosen = np.argsort(-vectors[popular.numpy()].var(axis=0), kind="stable")[:width]
    elif options.initial == "text-uniform":
        chosen = np.arange(width) * (vectors.shape[1] // width)
    else:
        chosen = torch.randperm(vectors.shape[1])[:width].numpy()
    items = torch.from_numpy(np.ascontiguousarray(vectors[:, np.sort(chosen)]))
    x = data.interactions
    users = csr_aggregate(Csr(x.crow, x.col, None, x.n_cols), items) / x.crow.diff().clamp_min(1)[:, None]
    tables = [users, items]
    if options.initial_scale == "xavier":
        tables = [each / each.std() * math.sqrt(2 / (len(each) + width)) for each in tables]
    return torch.cat(tables)

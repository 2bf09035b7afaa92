"""What language-enhanced models over the graph share: text vectors on both sides, and small networks over them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..base import TrainingData, WithTextVectors
from .lightgcn import embeddings
from .model import GraphConfig, GraphModel


class TextGraphConfig(GraphConfig, WithTextVectors):
    """Options of models with embeddings of their own, Xavier at first, and text vectors of users and items."""


class TextGraphModel(GraphModel):
    """Embeddings of all nodes, and text vectors of users and items, which are not part of checkpoints."""

    user_texts: Tensor  # (M, E) float32, as stored
    item_texts: Tensor  # (N, E)

    def __init__(self, data: TrainingData, options: TextGraphConfig) -> None:
        super().__init__(data, options)
        self.vectors = nn.Parameter(embeddings(data, options.embedding_dim, "xavier"))
        for name, texts in zip(("user_texts", "item_texts"), text_vectors(data), strict=True):
            self.register_buffer(name, texts, persistent=False)

    def initial(self) -> Tensor:
        """(M + N, d): the embeddings."""
        return self.vectors


def text_vectors(data: TrainingData) -> tuple[Tensor, Tensor]:
    """(M, E) and (N, E) float32: text vectors of users and of items."""
    users, items = data.user_text_vectors, data.item_text_vectors
    if users is None or items is None:
        raise AssertionError("a run whose model reads text vectors has them")
    return torch.from_numpy(np.array(users, dtype=np.float32)), torch.from_numpy(np.array(items, dtype=np.float32))


def two_layers(n_in: int, n_out: int) -> nn.Sequential:
    """A network with LeakyReLU between, half as wide inside as both ends together; its weights are Xavier, uniform."""
    inner = (n_in + n_out) // 2
    layers = nn.Linear(n_in, inner), nn.Linear(inner, n_out)
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(layers[0], nn.LeakyReLU(), layers[1])

"""What a model says of itself: its options, and how it is built. Each stands in the model's own file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self, TypeVar

import numpy as np
from torch import Tensor

from dmrec_ext import Csr

from ..sections import Section
from .backbone import Backbone


class TrainingData(NamedTuple):
    """What a model may know of the data it will be trained on."""

    train: Csr  # (M, N) interactions
    item_vectors: np.ndarray | None  # (N, E), of texts, where the model names them
    saved: Mapping[str, Tensor] = MappingProxyType({})  # the backbone's state, where it is built to be loaded


class ModelConfig(Section):
    """Options of a model; the default of ``kind`` is its name."""

    kind: str

    @property
    def item_vectors(self) -> str | None:
        """The name of the text vectors that the model itself is built from, if it is."""
        return None

    @property
    def lightgcn_run(self) -> Path | None:
        """The run of LightGCN that the model itself is built from, if it is."""
        return None

    def resolved(self, vectors: str | None) -> Self:
        """With what the dataset decides. ``vectors``: the name of language's, or of the only ones there are."""
        del vectors
        return self


class BackboneConfig(ModelConfig):
    """Options of a generative recommender, which can be matched with language."""

    @abstractmethod
    def build(self, data: TrainingData) -> Backbone:
        """The backbone; initial weights follow torch's global seed."""


MODELS: dict[str, type[ModelConfig]] = {}
"""By ``kind``: all that a configuration may name."""

AnyConfig = TypeVar("AnyConfig", bound=ModelConfig)


def register(config: type[AnyConfig]) -> type[AnyConfig]:
    """Makes a model known by the ``kind`` of its options."""
    MODELS[config.model_fields["kind"].default] = config
    return config

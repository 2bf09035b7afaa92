"""The seam between texts and vectors: whatever turns texts into a matrix fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


class TextEncoder(ABC):
    """Turns texts into vectors of one space; items and users pass through the same one.

    ``family`` and ``options`` together make the same encoder again: see `encoders.make_encoder`.
    """

    family: str
    learns = False  # from all texts, in `fit`
    shard = 2048  # texts that are encoded before they are written to disk

    @property
    def name(self) -> str:
        """What its vectors are called in a dataset unless a name is given."""
        return self.family

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What it was made with, as JSON holds it."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) floating-point vectors, in the order of ``texts``, none of which is empty."""

    def fit(self, texts: Iterable[str]) -> None:
        """Learns from all texts, where it learns from them; default: nothing."""
        del texts

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` has learned."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes what `fit` had learned."""
        del state

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"family": self.family, **self.options()}


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, or 0 where they were; float32."""
    vectors = np.asarray(vectors, dtype=np.float32)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norm > 1e-9, vectors / np.maximum(norm, 1e-9), 0).astype(np.float32)

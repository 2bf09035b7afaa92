"""The contract of a text encoder: texts in, one vector per text out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np


class TextEncoder(ABC):
    """Turns texts into vectors of one space; the texts of items and of users pass through the same encoder.

    A subclass names its ``family`` and implements `encode`. As in scikit-learn, every argument of its constructor is
    kept in an attribute of the same name; family and arguments are written to the dataset's manifest, from which
    `load_encoder` makes the same encoder again.
    """

    family: ClassVar[str]
    """Name of the encoder in `make_encoder`, on the command line and in manifests."""

    requires_fit: ClassVar[bool] = False
    """Whether `fit` must see all texts before `encode` is called."""

    shard_size: ClassVar[int] = 2048
    """Number of texts that are encoded before their vectors are written to disk."""

    manifest_keys: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Arguments that manifests record under another key: argument -> key."""

    device = "cpu"
    """The torch device that computes. Vectors of different devices may differ in their last bits."""

    @property
    def name(self) -> str:
        """Default name of its vectors in a dataset."""
        return self.family

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of ``texts``, none of which is empty.

        Returns:
            (len(texts), width) array of floating-point numbers, one row per text, in the order of the texts.
        """

    def fit(self, texts: Iterable[str]) -> None:
        """Learns from all texts of a dataset. Called once, before `encode`, if ``requires_fit`` is true."""
        del texts

    def state_dict(self) -> dict[str, np.ndarray]:
        """What `fit` has learned, as arrays; it is stored next to the vectors."""
        return {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over what `state_dict` of a fitted encoder returned."""
        del state

    def options(self) -> dict[str, Any]:
        """The arguments of the constructor that make the same encoder again, as values that JSON can hold."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def describe(self) -> dict[str, Any]:
        """Family and options, as the manifest records them."""
        return {"family": self.family, **{self.manifest_keys.get(k, k): v for k, v in self.options().items()}}

    @classmethod
    def options_from_manifest(cls, recorded: Mapping[str, Any], key_variable: str | None = None) -> dict[str, Any]:
        """The arguments of the constructor from what `describe` had recorded without the family.

        ``key_variable``: the environment variable whose key the encoder may send to its server, where it has one.
        """
        del key_variable
        argument_of = {key: argument for argument, key in cls.manifest_keys.items()}
        return {argument_of.get(key, key): value for key, value in recorded.items()}


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Each row divided by its Euclidean length, float32; rows of zeros remain zeros."""
    vectors = np.asarray(vectors, dtype=np.float32)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norm > 1e-9, vectors / np.maximum(norm, 1e-9), 0).astype(np.float32)

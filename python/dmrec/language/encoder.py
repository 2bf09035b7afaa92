"""The seam between texts and vectors: whatever turns a list of texts into a matrix fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..data.dataset import Dataset
from ..errors import DmrecError


class TextEncoder(Protocol):
    """Turns texts into vectors of one space; items and users pass through it in one call."""

    @property
    def name(self) -> str:
        """What the vectors are called in a dataset and in results."""
        ...

    def describe(self) -> dict[str, Any]:
        """How the vectors are made, for the manifest."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) floating-point vectors."""
        ...


def embed_dataset(dataset: Dataset, encoder: TextEncoder) -> str:
    """Encodes the texts of all items and users and stores the vectors under the encoder's name."""
    items, users = [i.text for i in dataset.items], [u.text for u in dataset.users]
    for side, texts in (("items", items), ("users", users)):
        if not any(texts):
            raise DmrecError(f"dataset {dataset.folder} has no texts of its {side} to make vectors from")
    vectors = encoder.encode([*items, *users])
    made = {**encoder.describe(), "items_without_text": items.count(""), "users_without_text": users.count("")}
    dataset.add_vectors(encoder.name, vectors[: len(items)], vectors[len(items) :], made)
    return encoder.name

"""Text vectors of items that join a dataset after its vectors were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.dataset import Dataset, open_dataset
from ..data.grown import NewItem, write_with_new_items
from ..errors import DmrecError
from .encoders import TextEncoder, encoder_of
from .encoders.registry import state_of_encoder


def vectors_of_new_items(
    dataset: Dataset,
    name: str,
    items: Sequence[NewItem],
    encoder: TextEncoder | None = None,
    key_variable: str | None = None,
    loaded: dict[str, TextEncoder] | None = None,
) -> np.ndarray:
    """(n, E) float32 vectors of new items in the space of the vectors ``name`` of a dataset.

    An item's own vector is taken where it has one; the texts of the others, or their titles, are encoded by the encoder
    that made the vectors, or by ``encoder`` where they were imported.

    Args:
        dataset: where the vectors are.
        name: the name of the vectors.
        items: the new items.
        encoder: of imported vectors.
        key_variable: see `load_encoder`.
        loaded: encoders that are loaded already, by name of vectors; one that is loaded is added.

    Raises:
        DmrecError: the encoder is not known, or a vector has another width than the dataset's.
    """
    width = dataset.vectors(name).items.shape[1]
    found = np.zeros((len(items), width), dtype=np.float32)
    described = [row for row, item in enumerate(items) if item.vector is None]
    for row, item in enumerate(items):
        if item.vector is not None:
            if len(item.vector) != width:
                raise DmrecError(
                    f"item '{item.entity.id}': the vectors '{name}' of {dataset.name} are {width} wide, its own is "
                    f"{len(item.vector)}"
                )
            found[row] = item.vector
    if not described:
        return found
    texts = [items[row].entity.text or items[row].entity.title for row in described]
    vectors = encoder_of(dataset, name, encoder, key_variable, {} if loaded is None else loaded).encode(texts)
    if vectors.shape != (len(texts), width):
        raise DmrecError(
            f"the vectors '{name}' are {width} wide, the encoder's {vectors.shape[-1]}: they were made by another "
            "encoder"
        )
    found[described] = vectors
    return found


def add_items(dataset: Dataset, items: Sequence[NewItem], folder: Path, encoder: TextEncoder | None = None) -> Dataset:
    """Writes ``dataset`` with further items to ``folder``, and their vectors under each name of the dataset's vectors.

    Vectors whose encoder is not known, while not every new item has one of its own, are left out, and so are profiles
    and codes.

    Raises:
        DmrecError: ``folder`` is that of the dataset.
    """
    described = {}
    for name in dataset.vector_names:
        made = dataset.manifest["vectors"][name]["made"]
        if made.get("encoder") or encoder is not None or all(item.vector is not None for item in items):
            of_new = vectors_of_new_items(dataset, name, items, None if made.get("encoder") else encoder)
            described[name] = (of_new, made)
    grown = write_with_new_items(dataset, [item.entity for item in items], folder)
    for name, (of_new, made) in described.items():
        known = dataset.vectors(name)
        together = np.concatenate([known.items, of_new.astype(known.items.dtype)])
        grown.add_vectors(name, together, np.asarray(known.users), made, state_of_encoder(dataset, name))
    return open_dataset(folder)

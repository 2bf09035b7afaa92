"""Datasets with more items than are in their folder, and folders of such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from dmrec_ext import Csr

from ..errors import DmrecError
from . import format1
from .create import create_dataset
from .dataset import SPLITS, Dataset, TextVectors
from .entities import Entity
from .interactions import Interactions
from .storage import Storage


class NewItem(NamedTuple):
    """An item that is not in a dataset: its description, and its text vector where that is given."""

    entity: Entity
    vector: np.ndarray | None = None  # (E,)


@dataclass(frozen=True)
class _Grown(format1.EntitiesInMemory):
    """The `Storage` of a dataset with further items behind its own, which have no interactions."""

    base: Storage
    joined: tuple[Entity, ...]

    @property
    def n_users(self) -> int:
        return self.base.n_users

    @property
    def n_items(self) -> int:
        return self.base.n_items + len(self.joined)

    def interactions(self, split: str) -> Interactions | None:
        del split
        return None

    def csr(self, split: str) -> Csr:
        return Csr.from_scipy(self.matrix(split))

    def matrix(self, split: str) -> sp.csr_matrix:
        return _widened(self.base.matrix(split), len(self.joined))

    def item_counts(self) -> np.ndarray:
        return np.concatenate([self.base.item_counts(), np.zeros(len(self.joined), dtype=np.int64)])

    def entities(self, side: str) -> list[Entity]:
        return [*self.base.entities(side), *(self.joined if side == "items" else ())]

    def texts(self, side: str) -> Iterator[str]:
        yield from self.base.texts(side)
        if side == "items":
            yield from (item.text for item in self.joined)

    def read_vectors(self, name: str, noted: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        del noted
        raise DmrecError(f"the new items have no vectors '{name}'")

    def write_vectors(self, name: str, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
        del vectors
        raise DmrecError(f"vectors '{name}' cannot be stored in a dataset with items that its folder lacks")

    def fingerprint(self) -> dict[str, str]:
        return self.base.fingerprint()


def with_new_items(dataset: Dataset, items: Sequence[Entity], vectors: Mapping[str, np.ndarray]) -> Dataset:
    """``dataset`` in memory with further items. ``vectors``: by name, the text vectors (n, E) of these; others of the
    dataset cannot be used with it.
    """
    together = {}
    for name, of_new in vectors.items():
        known = dataset.vectors(name)
        both = np.concatenate([known.items, of_new.astype(known.items.dtype)])
        together[name] = TextVectors(name, both, known.users)
    return Dataset(dataset.folder, dataset.manifest, _Grown(dataset.storage, tuple(items)), _vectors=together)


def write_with_new_items(dataset: Dataset, items: Sequence[Entity], folder: Path) -> Dataset:
    """Writes a dataset with further items behind its own, without text vectors, profiles and codes.

    Raises:
        DmrecError: ``folder`` is that of the dataset.
    """
    if dataset.manifest["format"] != format1.FORMAT:
        raise DmrecError(f"{dataset.folder} is a dataset of format 2: import its sources again, with the new items")
    if folder.resolve() == dataset.folder:
        raise DmrecError(f"{folder} is the dataset itself, which its runs need as it is: name another folder (--out)")
    return create_dataset(
        folder,
        dataset.name,
        {split: _widened(dataset.matrix(split), len(items)) for split in SPLITS},
        items=[*dataset.items, *items],
        users=dataset.users if dataset.describes("users") else None,
        reviews=((user, item, text) for (user, item), text in dataset.reviews.items()),
        sequences=dataset.sequences,
        provenance={**dataset.provenance, "items_added": dataset.provenance.get("items_added", 0) + len(items)},
    )


def _widened(matrix: sp.csr_matrix, count: int) -> sp.csr_matrix:
    shape = (matrix.shape[0], matrix.shape[1] + count)
    return sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=shape)

"""Datasets with more items than are in their folder, and folders of such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError
from .create import create_dataset
from .dataset import SPLITS, Dataset, TextVectors
from .entities import Entity


class NewItem(NamedTuple):
    """An item that is not in a dataset: its description, and its text vector where that is given."""

    entity: Entity
    vector: np.ndarray | None = None  # (E,)


@dataclass(frozen=True, repr=False)
class GrownDataset(Dataset):
    """A dataset with further items behind its own, which have no interactions; made by `with_new_items`."""

    joined: tuple[Entity, ...] = ()

    @cached_property
    def items(self) -> list[Entity]:
        """All items in column order, new ones last."""
        return [*self._entities("items", self.n_items - len(self.joined)), *self.joined]


def with_new_items(dataset: Dataset, items: Sequence[Entity], vectors: Mapping[str, np.ndarray]) -> GrownDataset:
    """``dataset`` in memory with further items. ``vectors``: by name, the text vectors (n, E) of these; others of the
    dataset cannot be used with it.
    """
    matrices = {split: _widened(dataset.matrix(split), len(items)) for split in SPLITS}
    together = {}
    for name, of_new in vectors.items():
        known = dataset.vectors(name)
        both = np.concatenate([known.items, of_new.astype(known.items.dtype)])
        together[name] = TextVectors(name, both, known.users)
    before = dataset.joined if isinstance(dataset, GrownDataset) else ()
    return GrownDataset(dataset.folder, dataset.manifest, matrices, _vectors=together, joined=(*before, *items))


def write_with_new_items(dataset: Dataset, items: Sequence[Entity], folder: Path) -> Dataset:
    """Writes a dataset with further items behind its own, without text vectors, profiles and codes.

    Raises:
        DmrecError: ``folder`` is that of the dataset.
    """
    if folder.resolve() == dataset.folder:
        raise DmrecError(f"{folder} is the dataset itself, which its runs need as it is: name another folder (--out)")
    return create_dataset(
        folder,
        dataset.name,
        {split: _widened(dataset.matrix(split), len(items)) for split in SPLITS},
        items=[*dataset.items, *items],
        users=dataset.users if (dataset.folder / "users.jsonl.gz").exists() else None,
        reviews=((user, item, text) for (user, item), text in dataset.reviews.items()),
        sequences=dataset.sequences,
        provenance={**dataset.provenance, "items_added": dataset.provenance.get("items_added", 0) + len(items)},
    )


def _widened(matrix: sp.csr_matrix, count: int) -> sp.csr_matrix:
    shape = (matrix.shape[0], matrix.shape[1] + count)
    return sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=shape)

"""Datasets of format 1: a scipy matrix for each split, held in memory; texts as JSON lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from dmrec_ext import Csr

from ..errors import DmrecError
from ..files import replace_file, sha256_of, write_array
from .arrays import check_rows, read_matrix, read_vectors
from .entities import Entity, iterate_entities, read_entities
from .interactions import Interactions
from .storage import MANIFEST, SIDES, SPLITS

FORMAT = 1


class EntitiesInMemory(ABC):
    """The names of a `Storage` whose items and users are in memory."""

    @abstractmethod
    def entities(self, side: str) -> list[Entity]:
        """All items or users in row order."""

    def names(self, side: str, columns: list[str], rows: range | None = None) -> Any:
        """An Arrow table of descriptions."""
        entities = self.entities(side)
        return table_of(entities if rows is None else entities[rows.start : rows.stop], columns)

    def find(self, side: str, ids: Sequence[str]) -> dict[str, int] | None:
        """None: see `entities`."""
        del side, ids
        return None

    def ids_at(self, side: str, rows: np.ndarray) -> list[str] | None:
        """None: see `entities`."""
        del side, rows
        return None


@dataclass(frozen=True)
class MatrixFiles(EntitiesInMemory):
    """The `Storage` of format 1.

    Fields:
        folder: the dataset's.
        manifest: as it was when the dataset was opened.
        matrices: by split, users x items, float32 ones.
    """

    folder: Path
    manifest: dict[str, Any]
    matrices: dict[str, sp.csr_matrix]

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> MatrixFiles:
        """Reads the matrices of a folder, whose files must have the checksums in its manifest."""
        for name, expected in manifest["files"].items():
            path = folder / Path(name).name
            if not path.exists():
                raise DmrecError(f"{path} is missing; make the dataset again")
            if sha256_of(path) != expected["sha256"]:
                raise DmrecError(
                    f"{path} differs from its checksum in {MANIFEST}: damaged or edited; make the dataset again"
                )
        matrices = {split: read_matrix(folder / f"{split}.npz") for split in SPLITS}
        if len({matrix.shape for matrix in matrices.values()}) != 1:
            raise DmrecError(f"the matrices of {folder} have different shapes")
        return cls(folder, manifest, matrices)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return int(self.matrices["train"].shape[0])

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.matrices["train"].shape[1])

    def interactions(self, split: str) -> Interactions | None:
        """They are in memory: see `csr`."""
        del split
        return None

    def csr(self, split: str) -> Csr:
        """All interactions of a split."""
        return Csr.from_scipy(self.matrices[split])

    def matrix(self, split: str) -> sp.csr_matrix:
        """`csr` as a scipy matrix."""
        return self.matrices[split]

    def item_counts(self) -> np.ndarray:
        """(items,) int64: how many training interactions each item has."""
        return np.bincount(self.matrices["train"].indices, minlength=self.n_items)

    def _count(self, side: str) -> int:
        return self.n_items if side == "items" else self.n_users

    def entities(self, side: str) -> list[Entity]:
        """All items or users in row order; without a file, their numbers."""
        path, count = self.folder / f"{side}.jsonl.gz", self._count(side)
        if not path.exists():
            return [Entity(str(i)) for i in range(count)]
        entities = read_entities(path)
        if len(entities) != count:
            raise DmrecError(f"{path} has {len(entities)} lines, but the dataset has {count} {side}")
        return entities

    def texts(self, side: str) -> Iterator[str]:
        """Their texts in row order; empty where there is none."""
        path = self.folder / f"{side}.jsonl.gz"
        if path.exists():
            yield from texts_in(path, side, self._count(side))
        else:
            yield from [""] * self._count(side)

    def read_vectors(self, name: str, noted: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors whose files have the checksums that were noted."""
        items, users = (self._vectors(name, side, noted.get("sha256", {}).get(side)) for side in SIDES)
        return items, users

    def _vectors(self, name: str, side: str, sha256: str | None) -> np.ndarray:
        path = self.folder / f"{side}.{name}.npy"
        array = read_vectors(path)
        if sha256_of(path) != sha256:
            raise DmrecError(f"{path} differs from its checksum in {MANIFEST}: damaged or replaced; make it again")
        check_rows(side, array, self._count(side))
        return array

    def write_vectors(self, name: str, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
        """Stores vectors, float16 or float32 as they come."""
        checksums = {}
        for side, array in vectors.items():
            kept = array if array.dtype == np.float16 else array.astype(np.float32, copy=False)
            path = self.folder / f"{side}.{name}.npy"
            replace_file(path, partial(write_array, array=kept))
            checksums[side] = sha256_of(path)
        return {"sha256": checksums}

    def fingerprint(self) -> dict[str, str]:
        """The checksum of each matrix."""
        return {f"{split}.npz": self.manifest["files"][f"{split}.npz"]["sha256"] for split in SPLITS}


def table_of(entities: Sequence[Entity], columns: list[str]) -> Any:
    """An Arrow table with these fields of all of them."""
    import pyarrow

    return pyarrow.table({name: [getattr(entity, name) for entity in entities] for name in columns})


def texts_in(path: Path, side: str, count: int) -> Iterator[str]:
    """The texts in a file of JSON lines, which must be ``count``."""
    found = 0
    for entity in iterate_entities(path):
        found += 1
        yield entity.text
    if found != count:
        raise DmrecError(f"{path} has {found} lines, but the dataset has {count} {side}")

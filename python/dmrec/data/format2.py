"""Datasets of format 2, for catalogues that are larger than memory: everything in parts that are mapped from disk.

``manifest.json``                            counts, how it was made; bytes and SHA-256 of every file; written last
``train|valid|test/00000.crow.npy .col.npy`` interactions of whole users, at most `PART_SIZE` a part; int64, and int32
                                             (int64 from 2^31 items)
``items.counts.npy``                         (items,) int64, the training interactions of each item
``items|users/00000.parquet``                optional: id, title and text in row order
``items.NAME|users.NAME/00000.npy``          optional: the vectors called NAME, float16, at most 1 GiB a part

Profiles, codes and encoders are stored as in format 1.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.sparse as sp

from dmrec_ext import Csr

from ..errors import DmrecError
from ..files import replace_file, sha256_of, write_array
from .arrays import check_rows, read_vectors
from .entities import Entity
from .interactions import Block, InteractionParts
from .storage import MANIFEST, SIDES, SPLITS
from .vectors import VectorParts, rows_of_part

FORMAT = 2
PART_SIZE = 64_000_000
"""The most interactions of a part, unless one user has more."""
COUNTS = "items.counts.npy"
FOLDERS = (*SPLITS, *SIDES)
NAME = re.compile(r"[\w.-]*\w[\w.-]*(/[\w.-]*\w[\w.-]*)?", re.ASCII)
BATCH = 8_192  # rows of descriptions that are read together


@dataclass(frozen=True)
class PartFiles:
    """The `Storage` of format 2. ``manifest``: as it was when the dataset was opened."""

    folder: Path
    manifest: dict[str, Any]
    _ids: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> PartFiles:
        """Opens a folder whose files have the sizes in its manifest; `check_files` compares their contents."""
        if missing := {"users", "items"} - manifest.keys():
            raise DmrecError(f"{folder / MANIFEST} lacks {', '.join(sorted(missing))}; make the dataset again")
        check_sizes(folder, manifest["files"])
        return cls(folder, manifest)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return int(self.manifest["users"])

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.manifest["items"])

    def interactions(self, split: str) -> InteractionParts:
        """The interactions of a split; rows that are asked for are read from disk."""
        names = [name.removesuffix(".crow.npy") for name in self._parts(split, ".crow.npy")]
        parts = [
            Block(*(_mapped(self.folder / f"{name}.{kind}.npy", "iu", 1) for kind in Block._fields)) for name in names
        ]
        counts = self.item_counts() if split == "train" else None
        found = InteractionParts(parts, self.n_items, counts)
        if (found.n_rows, found.nnz) != (self.n_users, self.manifest["interactions"][split]):
            raise DmrecError(
                f"{self.folder / split} has {found.nnz} interactions of {found.n_rows} users, {MANIFEST} says "
                f"{self.manifest['interactions'][split]} of {self.n_users}; make the dataset again"
            )
        return found

    def csr(self, split: str) -> Csr:
        """All interactions of a split, in memory; their files must have the checksums in the manifest."""
        files = self.manifest["files"]
        check_contents(self.folder, {name: files[name] for name in files if name.startswith(f"{split}/")})
        return self.interactions(split).whole()

    def matrix(self, split: str) -> sp.csr_matrix:
        """`csr` as a scipy matrix."""
        return self.csr(split).to_scipy()

    def item_counts(self) -> np.ndarray:
        """(items,) int64, mapped from disk: how many training interactions each item has."""
        return _mapped(self.folder / COUNTS, "i", 1)

    def entities(self, side: str) -> list[Entity]:
        """All items or users in row order; without files, their numbers."""
        if not self._parts(side, ".parquet"):
            return [Entity(str(i)) for i in range(self._count(side))]
        return [Entity(i, title, text) for i, title, text in self._descriptions(side, ["id", "title", "text"])]

    def names(self, side: str, columns: list[str], rows: range | None = None) -> Any:
        """An Arrow table of descriptions; files without any of the rows are not read."""
        import pyarrow
        import pyarrow.parquet

        wanted = range(self._count(side)) if rows is None else rows or range(0)
        first, skipped = 0, 0
        batches: list[Any] = []
        for path in (self.folder / name for name in self._parts(side, ".parquet")):
            count = pyarrow.parquet.read_metadata(path).num_rows
            if first + count <= wanted.start:
                skipped += count
            elif first < wanted.stop or not batches:  # one at least, for the types
                batches += _parquet(path, columns)
            first += count
        return pyarrow.Table.from_batches(batches).slice(wanted.start - skipped, len(wanted))

    def find(self, side: str, ids: Sequence[str]) -> dict[str, int] | None:
        """The rows of those of ``ids`` that are there, in one pass over all ids, which stay as Arrow has them."""
        if not self._parts(side, ".parquet"):
            return {i: int(i) for i in ids if i.isdecimal() and i == str(int(i)) and int(i) < self._count(side)}
        import pyarrow
        import pyarrow.compute

        known = self._column(side)
        wanted = pyarrow.array(list(dict.fromkeys(ids)), known.type)
        place = pyarrow.compute.index_in(known, value_set=wanted)
        rows = pyarrow.compute.indices_nonzero(place.is_valid()).to_pylist()
        return {wanted[place[row].as_py()].as_py(): row for row in rows}

    def ids_at(self, side: str, rows: np.ndarray) -> list[str] | None:
        """The ids of these rows."""
        if not self._parts(side, ".parquet"):
            return [str(row) for row in rows.tolist()]
        found: list[str] = self._column(side).take(rows).to_pylist()
        return found

    def _column(self, side: str) -> Any:
        """The ids of all items or users, as an Arrow column that is kept."""
        if side not in self._ids:
            import pyarrow

            self._ids[side] = self.names(side, ["id"])["id"].cast(pyarrow.large_string())  # may exceed 2 GiB
        return self._ids[side]

    def texts(self, side: str) -> Iterator[str]:
        """Their texts in row order; empty where there is none."""
        if not self._parts(side, ".parquet"):
            yield from [""] * self._count(side)
        for (text,) in self._descriptions(side, ["text"]):
            yield text

    def read_vectors(self, name: str, noted: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors whose files have the sizes that were noted; `VectorParts` where a side has several."""
        check_sizes(self.folder, noted.get("files", {}))
        items, users = (
            self._vectors(side, sorted(file for file in noted.get("files", {}) if file.startswith(f"{side}.{name}/")))
            for side in SIDES
        )
        return items, users

    def _vectors(self, side: str, files: list[str]) -> np.ndarray:
        parts = [read_vectors(self.folder / file) for file in files]
        if len({(part.shape[1], part.dtype) for part in parts}) != 1:
            raise DmrecError(f"the vectors of the {side} in {self.folder} have no parts, or parts of several widths")
        vectors = parts[0] if len(parts) == 1 else cast(np.ndarray, VectorParts(parts))
        check_rows(side, vectors, self._count(side))
        return vectors

    def write_vectors(self, name: str, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
        """Stores vectors as float16, in parts."""
        files: dict[str, dict[str, Any]] = {}
        for side, array in vectors.items():
            shutil.rmtree(self.folder / f"{side}.{name}", ignore_errors=True)
            size = rows_of_part(array.shape[1], np.dtype(np.float16))
            for number, first in enumerate(range(0, max(len(array), 1), size)):
                file = f"{side}.{name}/{number:05d}.npy"
                part = array[first : first + size].astype(np.float16, copy=False)
                replace_file(self.folder / file, partial(write_array, array=part))
                files[file] = noted_file(self.folder / file)
        of_side = {side: {file: files[file] for file in files if file.startswith(f"{side}.")} for side in vectors}
        return {"sha256": {side: digest_of(noted) for side, noted in of_side.items()}, "files": files}

    def fingerprint(self) -> dict[str, str]:
        """A checksum of the interactions of each split."""
        files = self.manifest["files"]
        return {split: digest_of({n: files[n] for n in files if n.startswith(f"{split}/")}) for split in SPLITS}

    def _count(self, side: str) -> int:
        return self.n_items if side == "items" else self.n_users

    def _parts(self, folder: str, ending: str) -> list[str]:
        """The names of a folder's files with this ending, in order."""
        return sorted(n for n in self.manifest["files"] if n.startswith(f"{folder}/") and n.endswith(ending))

    def _descriptions(self, side: str, columns: list[str]) -> Iterator[tuple[str, ...]]:
        found = 0
        for name in self._parts(side, ".parquet"):
            for batch in _parquet(self.folder / name, columns):
                found += len(batch)
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
        if self._parts(side, ".parquet") and found != self._count(side):
            raise DmrecError(f"{self.folder / side} has {found} rows, but the dataset has {self._count(side)} {side}")


def check_sizes(folder: Path, files: dict[str, Any]) -> None:
    """Checks that these files are there and have the noted number of bytes; their contents are not read.

    Raises:
        DmrecError: one is missing or of another size.
    """
    for name, noted in files.items():
        if not NAME.fullmatch(name):
            raise DmrecError(f"{folder / MANIFEST} names the file '{name}', which cannot be one of a dataset")
        try:
            size = (folder / name).stat().st_size
        except OSError:
            raise DmrecError(f"{folder / name} is missing; make the dataset again") from None
        if size != noted["bytes"]:
            raise DmrecError(
                f"{folder / name} has {size} bytes, and {noted['bytes']} in {MANIFEST}: damaged or edited; make the "
                "dataset again"
            )


def check_contents(folder: Path, files: dict[str, Any]) -> None:
    """Checks that these files have the noted checksums, which reads all of them.

    Raises:
        DmrecError: one is missing or its content has changed.
    """
    for name, noted in files.items():
        if not (folder / name).exists() or sha256_of(folder / name) != noted["sha256"]:
            raise DmrecError(
                f"{folder / name} is missing or differs from its checksum in {MANIFEST}: damaged or edited; make the "
                "dataset again"
            )


def noted_file(path: Path) -> dict[str, Any]:
    """What the manifest holds of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def digest_of(files: dict[str, Any]) -> str:
    """One checksum of files: that of the lines of their names and checksums."""
    lines = "".join(f"{name} {files[name]['sha256']}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _mapped(path: Path, kinds: str, dimensions: int) -> np.ndarray:
    """An .npy file of numbers, mapped from disk."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DmrecError(f"{path} is not an .npy file of numbers ({error})") from None
    if array.dtype.kind not in kinds or array.ndim != dimensions:
        raise DmrecError(f"{path} holds {array.dtype} {array.shape}; it is damaged, make the dataset again")
    return array.view(np.ndarray)


def _parquet(path: Path, columns: list[str]) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DmrecError(f"reading {path} needs pyarrow: pip install 'dmrec[large]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH, columns=columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise DmrecError(f"{path} is not a Parquet file of descriptions ({error}); it is damaged") from None

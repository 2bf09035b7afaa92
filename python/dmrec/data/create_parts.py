"""Writes datasets of format 2 from blocks of users, one after the other: memory holds a block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import DmrecError
from ..files import replace_file, write_array, write_json
from .create import check_dataset_name, remove_dataset
from .dataset import Dataset, open_dataset
from .entities import Entity
from .format2 import COUNTS, FORMAT, PART_SIZE, noted_file
from .interactions import Block
from .storage import MANIFEST, SIDES, SPLITS

ROWS_OF_DESCRIPTIONS = 1_000_000
"""Rows of a Parquet file."""
INT32_ITEMS = 2**31
Descriptions = Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]]
"""Ids, titles and texts of consecutive items or users: lists of Python or columns of Arrow."""


def create_large_dataset(
    folder: Path,
    name: str,
    blocks: Iterable[Mapping[str, Block]],
    n_items: int,
    *,
    items: Descriptions | None = None,
    users: Descriptions | None = None,
    provenance: dict[str, Any] | Callable[[], dict[str, Any]],
    part_size: int = PART_SIZE,
) -> Dataset:
    """Writes a dataset folder of format 2 and opens it. Another dataset in the folder is removed first.

    Args:
        folder: where to write.
        name: the dataset's name.
        blocks: consecutive users, each block with the same users in "train", "valid" and "test". Items rise strictly
            within a user, and no item of a user is in two splits.
        n_items: number of items.
        items, users: ids, titles and texts in the order of columns and rows.
        provenance: how the dataset was made; a function is called when all blocks are written.
        part_size: the most interactions of a part.

    Raises:
        DmrecError: a block is not as described, or there is not a description for each item and user; the folder then
            holds no dataset.
    """
    check_dataset_name(name)
    remove_dataset(folder)
    try:
        return _create(folder, name, blocks, n_items, items, users, provenance, part_size)
    except BaseException:
        remove_dataset(folder)  # what was written must not be in the way of another attempt
        raise


def _create(
    folder: Path,
    name: str,
    blocks: Iterable[Mapping[str, Block]],
    n_items: int,
    items: Descriptions | None,
    users: Descriptions | None,
    provenance: dict[str, Any] | Callable[[], dict[str, Any]],
    part_size: int,
) -> Dataset:
    n_users, counts, files = 0, np.zeros(n_items, dtype=np.int64), dict[str, dict[str, Any]]()
    with contextlib.ExitStack() as stack:
        writers = {split: stack.enter_context(_SplitWriter(folder, split, n_items, part_size)) for split in SPLITS}
        for block in blocks:
            sizes = {split: len(block[split].crow) - 1 for split in SPLITS}
            if len(set(sizes.values())) != 1:
                raise DmrecError(f"a block must have the same users in each split, got {sizes}")
            for split, writer in writers.items():
                writer.add(block[split])
            np.add.at(counts, block["train"].col, 1)
            n_users += sizes["train"]
        for writer in writers.values():
            files |= writer.close()
    replace_file(folder / COUNTS, partial(write_array, array=counts))
    files[COUNTS] = noted_file(folder / COUNTS)
    for side, described, count in zip(SIDES, (items, users), (n_items, n_users), strict=True):
        if described is not None:
            files |= _write_descriptions(folder, side, described, count)
    manifest = {
        "format": FORMAT,
        "name": name,
        "users": n_users,
        "items": n_items,
        "interactions": {split: writers[split].nnz for split in SPLITS},
        "made": provenance() if callable(provenance) else provenance,
        "files": files,
        "vectors": {},
    }
    write_json(folder / MANIFEST, manifest)
    return open_dataset(folder)


def descriptions_of(entities: Sequence[Entity]) -> Descriptions:
    """Ids, titles and texts of entities in memory."""
    yield [e.id for e in entities], [e.title for e in entities], [e.text for e in entities]


class _ArrayFile:
    """An .npy file of one dimension that grows; under a temporary name until it is closed."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.dtype, self.count = path, dtype, 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("w+b")
        self._header()

    def _header(self) -> None:
        """The header, which has room for the final length."""
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.count += len(values)

    def close(self) -> dict[str, Any]:
        self._file.seek(0)
        self._header()
        self._file.close()
        replace_file(self.path, self._rename)
        return noted_file(self.path)

    def _rename(self, into: Path) -> None:
        self._temporary.replace(into)

    def discard(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class _SplitWriter:
    """Writes the interactions of a split, a new part where the next user would make one too large."""

    def __init__(self, folder: Path, split: str, n_items: int, part_size: int) -> None:
        self._folder, self._split, self._n_items, self._part_size = folder, split, n_items, part_size
        self._kind = np.dtype(np.int32 if n_items < INT32_ITEMS else np.int64)
        self._open: tuple[_ArrayFile, _ArrayFile] | None = None
        self._files = dict[str, dict[str, Any]]()
        self._parts, self.nnz = 0, 0

    def __enter__(self) -> _SplitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        for file in self._open or ():
            file.discard()

    def add(self, block: Block) -> None:
        """Appends users."""
        crow, col = block.crow.astype(np.int64, copy=False), block.col
        self._check(crow, col)
        first, n_users = 0, len(crow) - 1
        while first < n_users:
            files = self._part()
            space = max(self._part_size - files[1].count, 0)
            last = int(np.searchsorted(crow, crow[first] + space, side="right")) - 1
            if last == first and files[0].count == 1:
                last = first + 1  # a user with more than a part may hold
            if last > first:
                files[0].write(crow[first + 1 : last + 1] - crow[first] + files[1].count)
                files[1].write(col[crow[first] : crow[last]])
            if last < n_users:
                self._end_part()
            first = last
        self.nnz += int(crow[-1])

    def close(self) -> dict[str, dict[str, Any]]:
        """Ends the last part; returns what the manifest holds of all files."""
        self._part()
        self._end_part()
        return self._files

    def _part(self) -> tuple[_ArrayFile, _ArrayFile]:
        """The files of the part that is being written."""
        if self._open is None:
            stem = self._folder / self._split / f"{self._parts:05d}"
            self._open = (
                _ArrayFile(stem.with_suffix(".crow.npy"), np.dtype(np.int64)),
                _ArrayFile(stem.with_suffix(".col.npy"), self._kind),
            )
            self._open[0].write(np.zeros(1, dtype=np.int64))
        return self._open

    def _end_part(self) -> None:
        for file in self._part():
            self._files[f"{self._split}/{file.path.name}"] = file.close()
        self._open, self._parts = None, self._parts + 1

    def _check(self, crow: np.ndarray, col: np.ndarray) -> None:
        if crow[0] != 0 or crow[-1] != len(col) or (np.diff(crow) < 0).any():
            raise DmrecError(f"{self._split}: crow must rise from 0 to the number of interactions, {len(col)}")
        if len(col) and (col.min() < 0 or col.max() >= self._n_items):
            raise DmrecError(f"{self._split}: items must be numbers from 0 to {self._n_items - 1}")
        inside = np.ones(max(len(col) - 1, 0), dtype=bool)
        starts = crow[1:-1]
        inside[starts[(starts > 0) & (starts < len(col))] - 1] = False  # from one user to the next
        if (np.diff(col)[inside] <= 0).any():
            raise DmrecError(f"{self._split}: the items of a user must rise strictly")


def _write_descriptions(folder: Path, side: str, described: Descriptions, count: int) -> dict[str, dict[str, Any]]:
    """Parquet files of `ROWS_OF_DESCRIPTIONS` rows each."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DmrecError("writing descriptions needs pyarrow: pip install 'dmrec[large]'") from None
    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "title", "text")])
    files, found = dict[str, dict[str, Any]](), 0
    for number, tables in enumerate(_regrouped(described, schema)):
        file = f"{side}/{number:05d}.parquet"
        found += _write_parquet(folder / file, tables, schema)
        files[file] = noted_file(folder / file)
    if found != count:
        raise DmrecError(f"{found} {side} are described, but there are {count}")
    return files


def _write_parquet(path: Path, tables: Iterator[Any], schema: Any) -> int:
    """Writes tables into one file; returns the number of rows."""
    import pyarrow.parquet

    rows = 0

    def write(into: Path) -> None:
        nonlocal rows
        with pyarrow.parquet.ParquetWriter(into, schema) as writer:
            for table in tables:
                writer.write_table(table)
                rows += len(table)

    replace_file(path, write)
    return rows


def _regrouped(described: Descriptions, schema: Any) -> Iterator[Iterator[Any]]:
    """For each file its tables, which together have `ROWS_OF_DESCRIPTIONS` rows, fewer in the last."""
    import pyarrow

    tables = (pyarrow.table(list(columns), schema=schema) for columns in described)
    left = next(tables, schema.empty_table())

    def of_one_file() -> Iterator[Any]:
        nonlocal left
        space = ROWS_OF_DESCRIPTIONS
        while left is not None:
            yield left.slice(0, space)
            taken = min(space, len(left))
            space -= taken
            left = left.slice(taken) if taken < len(left) else next(tables, None)
            if space == 0:
                return

    while left is not None:
        yield of_one_file()

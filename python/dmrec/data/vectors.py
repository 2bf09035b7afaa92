"""Vectors in several files of at most 1 GiB, which read like one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

PART_BYTES = 1 << 30


class VectorParts:
    """(rows, width) vectors in parts that may be mapped from disk: what is indexed is read, as an array.

    Slices, numbers and arrays of rows work as for an array of numpy, and ``np.asarray`` reads everything.

    Args:
        parts: at least one, each (some, width), of one type.
    """

    ndim = 2

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = list(parts)
        self._first = np.cumsum([0, *map(len, parts)])
        self.dtype = parts[0].dtype
        self.shape = (int(self._first[-1]), int(parts[0].shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("vectors in parts cannot become an array without a copy")
        return np.concatenate(self._parts).astype(self.dtype if dtype is None else dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        """Rows by number, slice or array, as an array; further indices go to what is read."""
        if isinstance(key, tuple):
            rows = self[key[0]]
            return rows[key[1:]] if rows.ndim < self.ndim else rows[(slice(None), *key[1:])]
        if isinstance(key, slice):
            first, stop, step = key.indices(len(self))
            return self._range(first, max(first, stop)) if step == 1 else self._rows(np.arange(first, stop, step))
        index = np.asarray(key)
        if index.dtype == bool:
            (index,) = np.nonzero(index)
        return self._rows(index.reshape(-1).astype(np.int64)).reshape(*index.shape, self.shape[1])

    def _range(self, first: int, stop: int) -> np.ndarray:
        pieces = [
            part[max(first - start, 0) : max(stop - start, 0)]
            for part, start in zip(self._parts, self._first[:-1], strict=True)
            if start < stop and start + len(part) > first
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate([self._parts[0][:0], *pieces])

    def _rows(self, index: np.ndarray) -> np.ndarray:
        if len(wrong := index[(index < -len(self)) | (index >= len(self))]):
            raise IndexError(f"row {wrong[0]} is out of range for {len(self)} vectors")
        index = index % max(len(self), 1)
        found = np.empty((len(index), self.shape[1]), dtype=self.dtype)
        part_of = np.searchsorted(self._first, index, side="right") - 1
        for number in np.unique(part_of):
            places = part_of == number
            found[places] = self._parts[number][index[places] - self._first[number]]
        return found


def rows_of_part(width: int, dtype: np.dtype[Any]) -> int:
    """The number of vectors in each part but the last."""
    return max(PART_BYTES // (width * dtype.itemsize), 1)

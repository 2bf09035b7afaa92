"""Interactions of users with items, from which rows are read: held in memory, or in parts that are mapped from disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

CHUNK = 1 << 24  # interactions that are counted together


class Interactions(Protocol):
    """Users x items, an entry for each interaction. `dmrec_ext.Csr` is one, `InteractionParts` another."""

    @property
    def n_rows(self) -> int:
        """Number of users."""

    @property
    def n_cols(self) -> int:
        """Number of items."""

    @property
    def nnz(self) -> int:
        """Number of interactions."""

    @property
    def crow(self) -> Tensor:
        """(users + 1,) int64: how many interactions come before each user's, and their number."""

    def rows(self, index: Tensor, /) -> Csr:
        """The rows ``index`` (B,) int64, in this order, in memory; negative ones count from the end."""


class Block(NamedTuple):
    """Interactions of consecutive users: those of user b are ``col[crow[b]:crow[b + 1]]``, ascending.

    Fields:
        crow: (users + 1,) int64, from 0.
        col: (nnz,) int32 or int64.
    """

    crow: np.ndarray
    col: np.ndarray


class InteractionParts:
    """Interactions in blocks of consecutive users, which may be mapped from disk: what is asked for is read.

    Args:
        parts: the blocks, in the order of the users.
        n_cols: number of items.
        counts: (items,) int64, how many interactions each item has, if that is known.
    """

    def __init__(self, parts: Sequence[Block], n_cols: int, counts: np.ndarray | None = None) -> None:
        self._parts, self._n_cols, self._counts = list(parts), n_cols, counts
        self._first = np.cumsum([0, *(len(part.crow) - 1 for part in parts)])  # user of each part, and their number

    @property
    def n_rows(self) -> int:
        """Number of users."""
        return int(self._first[-1])

    @property
    def n_cols(self) -> int:
        """Number of items."""
        return self._n_cols

    @property
    def nnz(self) -> int:
        """Number of interactions."""
        return sum(len(part.col) for part in self._parts)

    @cached_property
    def crow(self) -> Tensor:
        """(users + 1,) int64, in memory: how many interactions come before each user's, and their number."""
        shifts = np.cumsum([0, *(len(part.col) for part in self._parts)])
        crow = [part.crow[1:] + shift for part, shift in zip(self._parts, shifts, strict=False)]
        return torch.from_numpy(np.concatenate([[0], *crow]))

    def rows(self, index: Tensor) -> Csr:
        """The rows ``index`` (B,) int64, in this order, in memory; negative ones count from the end.

        Raises:
            TypeError: ``index`` is not a tensor of whole numbers.
            ValueError: it does not have one dimension.
            IndexError: a number is out of range.

        >>> parts = [Block(np.array([0, 2, 2]), np.array([0, 2])), Block(np.array([0, 1]), np.array([1]))]
        >>> rows = InteractionParts(parts, 3).rows(torch.tensor([2, 0]))
        >>> rows.crow.tolist(), rows.col.tolist()
        ([0, 1, 3], [1, 0, 2])
        """
        users = self._users(index)
        part_of = np.searchsorted(self._first, users, side="right") - 1
        order = np.argsort(part_of, kind="stable")
        ends = np.cumsum(np.bincount(part_of, minlength=len(self._parts)))
        groups = {
            part: order[end - size : end]
            for part, (size, end) in enumerate(zip(np.diff(ends, prepend=0), ends, strict=True))
            if size
        }
        begin, counts = np.empty_like(users), np.empty_like(users)
        for part, places in groups.items():
            crow, row = self._parts[part].crow, users[places] - self._first[part]
            begin[places] = crow[row]
            counts[places] = crow[row + 1] - begin[places]
        crow = np.concatenate([[0], np.cumsum(counts)])
        col = np.empty(crow[-1], dtype=np.int64)
        for part, places in groups.items():
            within = _ranges(counts[places])
            source = np.repeat(begin[places], counts[places]) + within
            col[np.repeat(crow[places], counts[places]) + within] = self._parts[part].col[source]
        return Csr(torch.from_numpy(crow), torch.from_numpy(col), None, self._n_cols)

    def item_counts(self, first: int = 0, end: int | None = None) -> Tensor:
        """(end - first,) int64: how many interactions each of the items from ``first`` to ``end`` has; default: all.

        Where that is not known, all interactions are read, once.
        """
        if self._counts is None:
            chunks = (part.col[i : i + CHUNK] for part in self._parts for i in range(0, len(part.col), CHUNK))
            counts = np.zeros(self._n_cols, dtype=np.int64)
            for chunk in chunks:
                counts += np.bincount(chunk, minlength=self._n_cols)
            self._counts = counts
        return torch.from_numpy(np.array(self._counts[first:end]))

    def whole(self) -> Csr:
        """All rows, in memory."""
        col = np.concatenate([np.zeros(0, np.int64), *(part.col for part in self._parts)], dtype=np.int64)
        return Csr(self.crow, torch.from_numpy(col), None, self._n_cols)

    def _users(self, index: Tensor) -> np.ndarray:
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            got = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"rows: index must be a tensor of int64, got {got}")
        if index.dim() != 1:
            raise ValueError(f"rows: index must have 1 dimension, got {tuple(index.shape)}")
        users: np.ndarray = index.numpy().astype(np.int64)
        users[users < 0] += self.n_rows
        if len(wrong := users[(users < 0) | (users >= self.n_rows)]):
            raise IndexError(f"rows: index {wrong[0]} is out of range for {self.n_rows} rows")
        return users


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0 to ``counts[0] - 1``, then 0 to ``counts[1] - 1``, and so on."""
    ends = np.cumsum(counts)
    return np.asarray(np.arange(counts.sum()) - np.repeat(ends - counts, counts))

"""The order of interactions: each user's, oldest first."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError
from .arrays import contains

LARGEST_INT32 = 2**31


@dataclass(frozen=True)
class Sequences:
    """Interactions of all users, by user and oldest first.

    Fields:
        indptr: (users + 1,) int64; the interactions of user u are the entries ``indptr[u]`` to ``indptr[u + 1]``.
        items: (n,) int32, int64 beyond 2**31 items; the column of each entry.
        times: (n,) int64, seconds since 1970-01-01 UTC; None where the order alone is known.
    """

    indptr: np.ndarray
    items: np.ndarray
    times: np.ndarray | None = None

    @classmethod
    def from_log(
        cls, users: np.ndarray, items: np.ndarray, times: np.ndarray | None, n_users: int, n_items: int
    ) -> Sequences:
        """From entries sorted by user and time; ``times`` in seconds."""
        indptr = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
        return cls(indptr, items.astype(np.int32 if n_items <= LARGEST_INT32 else np.int64), times)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.indptr) - 1

    def __len__(self) -> int:
        return len(self.items)

    def of_user(self, row: int) -> np.ndarray:
        """The items of the user in ``row``, oldest first."""
        return self.items[self.indptr[row] : self.indptr[row + 1]]

    def row_of_entry(self) -> np.ndarray:
        """(n,) int64: the user's row of each entry."""
        return np.repeat(np.arange(self.n_users), np.diff(self.indptr))

    def is_in(self, matrix: sp.csr_matrix) -> np.ndarray:
        """(n,) bool: whether ``matrix`` (users x items, columns sorted) has each entry's user and item."""
        return contains(matrix, self.row_of_entry(), self.items)

    def where(self, chosen: np.ndarray) -> Sequences:
        """The entries where ``chosen`` (n,) bool is true, in their order."""
        before = np.concatenate([[0], np.cumsum(chosen)])
        times = None if self.times is None else self.times[chosen]
        return Sequences(before[self.indptr], self.items[chosen], times)

    def to_npz(self) -> bytes:
        """The content of ``sequences.npz``."""
        buffer = io.BytesIO()
        times = {} if self.times is None else {"times": self.times}
        np.savez_compressed(buffer, indptr=self.indptr, items=self.items, **times)  # type: ignore[arg-type]
        return buffer.getvalue()


def read_sequences(path: Path, n_users: int, n_items: int) -> Sequences:
    """The sequences in an .npz file, checked against the size of the dataset.

    Raises:
        DmrecError: the file is damaged, or its arrays cannot be those of this many users and items.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("indptr", "items", "times") if name in arrays}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise DmrecError(f"{path} is not an .npz file of sequences ({error})") from None
    if missing := {"indptr", "items"} - found.keys():
        raise DmrecError(f"{path.name} has no array '{min(missing)}'")
    sequences = Sequences(**found)
    check_sequences(sequences, n_users, n_items, path.name)
    return sequences


def check_sequences(sequences: Sequences, n_users: int, n_items: int, place: str = "sequences") -> None:
    """Checks that these can be the sequences of ``n_users`` x ``n_items``.

    Raises:
        DmrecError: an item is out of range, ``indptr`` does not partition the entries, or times of a user fall.
    """
    indptr, items, times = sequences.indptr, sequences.items, sequences.times
    for name, array in (("indptr", indptr), ("items", items), ("times", times)):
        if array is not None and (array.ndim != 1 or array.dtype.kind not in "iu" or array.dtype == np.uint64):
            raise DmrecError(
                f"{place}: {name} must be whole numbers in one dimension, int64 or smaller, got {array.dtype} "
                f"{array.shape}"
            )
    if len(indptr) != n_users + 1:
        raise DmrecError(f"{place}: indptr must have {n_users + 1} entries for {n_users} users, it has {len(indptr)}")
    if indptr[0] != 0 or indptr[-1] != len(items):
        raise DmrecError(f"{place}: indptr must rise from 0 to {len(items)}, it goes from {indptr[0]} to {indptr[-1]}")
    if (falls := np.diff(indptr.astype(np.int64)) < 0).any():
        raise DmrecError(f"{place}: indptr falls after user {int(falls.argmax())}; it must never fall")
    if (wrong := (items < 0) | (items >= n_items)).any():
        entry = int(wrong.argmax())
        raise DmrecError(f"{place}: item {items[entry]} of user {_user(indptr, entry)} is not among {n_items} items")
    if times is None:
        return
    if len(times) != len(items):
        raise DmrecError(f"{place}: {len(times)} times for {len(items)} items; each item needs one")
    falls = np.diff(times) < 0
    falls[indptr[(indptr > 0) & (indptr < len(items))] - 1] = False  # from one user to the next
    if falls.any():
        raise DmrecError(f"{place}: a time of user {_user(indptr, int(falls.argmax()))} is earlier than the one before")


def check_order(sequences: Sequences, matrices: Sequence[sp.csr_matrix], place: str = "sequences") -> None:
    """Checks that these sequences hold each interaction of the matrices (users x items) once, and no other.

    Raises:
        DmrecError: an interaction is missing, is there twice, or is in no matrix.
    """
    if (strange := ~np.any([sequences.is_in(matrix) for matrix in matrices], axis=0)).any():
        entry = int(strange.argmax())
        user = _user(sequences.indptr, entry)
        raise DmrecError(f"{place}: item {sequences.items[entry]} of user {user} is in none of the splits")
    n_items = matrices[0].shape[1]
    pairs, counts = np.unique(sequences.row_of_entry() * n_items + sequences.items, return_counts=True)
    if len(pairs) < len(sequences):
        user, item = divmod(int(pairs[counts.argmax()]), n_items)
        raise DmrecError(f"{place}: item {item} of user {user} is there {counts.max()} times; keep the first alone")
    expected = sum(matrices[1:], matrices[0]).nnz  # an interaction in two splits is one
    if len(pairs) < expected:
        raise DmrecError(f"{place}: {len(pairs)} entries, but the splits have {expected} interactions")


def _user(indptr: np.ndarray, entry: int) -> int:
    return int(np.searchsorted(indptr, entry, side="right")) - 1

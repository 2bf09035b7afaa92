"""Reads and checks the arrays of a dataset: sparse matrices of interactions, dense matrices of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError

BLOCK = 65_536  # rows of vectors that are looked at together


def read_matrix(path: Path) -> sp.csr_matrix:
    """The interactions in an .npz file that scipy wrote: every entry that is not 0.

    Raises:
        DmrecError: the file cannot be read, or it does not hold a sparse matrix of finite numbers.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DmrecError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        try:
            matrix = sp.load_npz(file)
        except Exception as error:  # zipfile, numpy and scipy each raise their own
            why = f"not saved by scipy.sparse.save_npz, or damaged: {str(error).replace(repr(file), 'it')}"
            raise _not_interactions(path, why) from None
    return checked_interactions(matrix, path)


def checked_interactions(matrix: Any, path: Path) -> sp.csr_matrix:
    """`as_interactions` of a value that came from the file ``path``.

    Raises:
        DmrecError: it is not a sparse matrix, an index is out of range, or an entry is NaN.
    """
    fault = _fault_of(matrix)
    if fault is not None:
        raise _not_interactions(path, fault)
    return as_interactions(matrix)


def as_interactions(matrix: sp.spmatrix) -> sp.csr_matrix:
    """The pattern of a matrix as float32 ones, columns sorted, no duplicates: an entry for each that is not 0."""
    if matrix.dtype == np.float16:  # scipy writes such matrices and cannot compute with them
        matrix.data = matrix.data.astype(np.float32)
    entries = matrix.tocoo()
    there = entries.data != 0  # before repeated entries are added up, whose sum may wrap around to 0
    ones = np.ones(int(np.count_nonzero(there)), dtype=np.float32)
    csr = sp.csr_matrix((ones, (entries.row[there], entries.col[there])), shape=matrix.shape)
    csr.sum_duplicates()
    csr.data[:] = 1
    return csr


def read_vectors(path: Path) -> np.ndarray:
    """The (rows, width) matrix of an .npy file, mapped from disk; writing to it changes a copy in memory alone.

    Raises:
        DmrecError: the file does not hold a matrix of floating-point numbers.
    """
    try:
        with np.errstate(over="ignore"):  # shapes of damaged files
            array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise DmrecError(f"{path} is not an .npy file of numbers ({error})") from None
    return checked_matrix(array, path)


def checked_matrix(array: Any, path: Path) -> np.ndarray:
    """``array``, which came from the file ``path``, where it is a matrix of floating-point numbers.

    Raises:
        DmrecError: it is not.
    """
    if not isinstance(array, np.ndarray):
        raise DmrecError(f"{path} must hold a matrix of floating-point numbers, not {type(array).__name__}")
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise DmrecError(f"{path} must hold a matrix of floating-point numbers, got {array.dtype} {array.shape}")
    return array


def check_vectors(items: np.ndarray, users: np.ndarray, n_items: int, n_users: int) -> None:
    """Checks that these can be the vectors of a dataset of this size: one width, a row each, finite.

    Raises:
        DmrecError: they cannot.
    """
    if items.ndim != 2 or items.shape[1:] != users.shape[1:] or items.shape[1] == 0:
        raise DmrecError(f"item vectors {items.shape} and user vectors {users.shape} must have one width")
    for side, array, count in (("items", items, n_items), ("users", users, n_users)):
        check_rows(side, array, count)
        blocks = (array[first : first + BLOCK] for first in range(0, count, BLOCK))
        if not all(np.isfinite(block.astype(np.float32, copy=False)).all() for block in blocks):
            raise DmrecError(f"{side} vectors contain NaN or infinity")


def check_rows(side: str, array: np.ndarray, count: int) -> None:
    """Checks that ``array`` has a row for each of the ``count`` entities of ``side`` ("items" or "users")."""
    if array.shape[0] != count:
        raise DmrecError(f"{side} vectors have {array.shape[0]} rows, but the dataset has {count} {side}")


def _not_interactions(path: Path, why: str) -> DmrecError:
    return DmrecError(f"{path} is not a sparse matrix of interactions ({why})")


def _fault_of(matrix: Any) -> str | None:
    """Why a value cannot hold interactions, or None."""
    if not sp.issparse(matrix):
        return f"it holds {type(matrix).__name__}"
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        return f"it has {matrix.ndim} dimensions and numbers of type {matrix.dtype}"
    try:
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)  # indices out of range, too
    except ValueError as error:
        return str(error)
    return "it holds NaN" if np.isnan(matrix.data).any() else None


def contains(matrix: sp.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n,) bool: whether ``matrix``, its columns sorted, has an entry at each of these rows and columns, (n,) each."""
    width = matrix.shape[1]
    known = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr)) * width + matrix.indices
    wanted = rows.astype(np.int64) * width + columns
    if not len(known):
        return np.zeros(len(wanted), dtype=bool)
    return np.asarray(known[np.searchsorted(known, wanted).clip(max=len(known) - 1)] == wanted)


def check_codes(codes: np.ndarray, n_items: int, size: int, where: str) -> None:
    """Checks that ``codes`` has a tuple of whole numbers from 0 and below ``size`` for each item.

    Raises:
        DmrecError: it does not.
    """
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise DmrecError(f"{where}: must be whole numbers, items x levels, got {codes.dtype} {codes.shape}")
    if len(codes) != n_items or codes.shape[1] == 0:
        raise DmrecError(f"{where}: has {codes.shape[0]} rows of {codes.shape[1]} codes, but there are {n_items} items")
    outside = (codes < 0) | (codes >= size)
    if outside.any():
        item, level = (int(part) for part in np.argwhere(outside)[0])
        raise DmrecError(
            f"{where}: item {item} has the code {codes[item, level]} on level {level + 1}; codes are 0 to {size - 1}"
        )

"""From raw interactions to the three matrices: threshold, k-core, random split per user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError


@dataclass(frozen=True)
class Interactions:
    """Raw interactions, one entry each; ids as in the source; the rating may be missing."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """Filtered and split interactions with the ids of their rows and columns, and what the filters did."""

    splits: dict[str, sp.csr_matrix]
    user_ids: list[str]
    item_ids: list[str]
    report: dict[str, int | float]


def prepare(raw: Interactions, *, min_rating: float = 3.0, core: int = 5, seed: int = 0) -> Prepared:
    """Drops ratings below ``min_rating``, repeats, users and items outside the ``core``-core; splits 3:1:1."""
    if raw.rating is not None:
        if np.isnan(raw.rating).any():
            bad = int(np.isnan(raw.rating).argmax())
            raise DmrecError(
                f"the rating of interaction {bad + 1} is not a number; correct the file or drop the column"
            )
        keep = raw.rating >= min_rating
        user, item = raw.user[keep], raw.item[keep]
    else:
        user, item = raw.user, raw.item
    user_ids, rows = np.unique(user, return_inverse=True)
    item_ids, columns = np.unique(item, return_inverse=True)
    ones = np.ones(len(rows), dtype=np.float32)
    matrix = sp.csr_matrix((ones, (rows, columns)), shape=(len(user_ids), len(item_ids)))
    distinct = matrix.nnz
    matrix, kept_users, kept_items = k_core(matrix, core)
    if matrix.nnz == 0:
        raise DmrecError(
            f"no interaction is left: of {len(raw.user)} rows, {len(user)} have a rating of at least {min_rating:g}, "
            f"and no {core}-core of users and items remains; lower --min-rating or --k-core"
        )
    splits, moved = split_per_user(matrix, seed)
    report = {
        "rows": len(raw.user),
        "below_min_rating": len(raw.user) - len(user),
        "repeated": len(user) - distinct,
        "outside_core": distinct - matrix.nnz,
        "moved_to_train": moved,
    }
    return Prepared(splits, list(map(str, user_ids[kept_users])), list(map(str, item_ids[kept_items])), report)


def k_core(matrix: sp.csr_matrix, k: int) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """The largest part in which every user and item has k interactions, and the kept rows and columns."""
    users, items = np.arange(matrix.shape[0]), np.arange(matrix.shape[1])
    matrix = sp.csr_matrix(matrix.astype(bool), dtype=np.float32)
    while True:
        keep_users = np.diff(matrix.indptr) >= max(k, 1)
        matrix = matrix[keep_users]
        keep_items = np.bincount(matrix.indices, minlength=matrix.shape[1]) >= max(k, 1)
        matrix = matrix[:, keep_items]
        users, items = users[keep_users], items[keep_items]
        if keep_users.all() and keep_items.all():
            return matrix, users, items


def split_per_user(matrix: sp.csr_matrix, seed: int) -> tuple[dict[str, sp.csr_matrix], int]:
    """A fifth of each user's interactions at random for validation, a fifth for test, rounded; the rest to train.

    Held-out interactions with an item that has none in training go back to training; their number is returned.
    """
    matrix = matrix.tocsr()
    counts = np.diff(matrix.indptr)
    row = np.repeat(np.arange(matrix.shape[0]), counts)
    order = np.lexsort((np.random.default_rng(seed).random(matrix.nnz), row))
    position = np.empty(matrix.nnz, dtype=np.int64)
    position[order] = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    held_out = np.rint(counts * 0.2).astype(np.int64)[row]
    part = np.where(position < held_out, 1, np.where(position < 2 * held_out, 2, 0))
    seen = np.zeros(matrix.shape[1], dtype=bool)
    seen[matrix.indices[part == 0]] = True
    unseen = (part > 0) & ~seen[matrix.indices]
    part[unseen] = 0
    splits = {}
    for number, name in enumerate(("train", "valid", "test")):
        chosen = part == number
        entries = (np.ones(int(chosen.sum()), dtype=np.float32), (row[chosen], matrix.indices[chosen]))
        splits[name] = sp.csr_matrix(entries, shape=matrix.shape)
    return splits, int(unseen.sum())

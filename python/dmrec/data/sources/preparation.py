"""From raw interactions to the three matrices: filters by rating and number of interactions, then a split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ...errors import DmrecError
from ..splits import split_per_user
from .interactions import Interactions


@dataclass(frozen=True)
class SplitInteractions:
    """Filtered and split interactions with the ids of their rows and columns, and what the filters did."""

    splits: dict[str, sp.csr_matrix]
    user_ids: list[str]
    item_ids: list[str]
    report: dict[str, int | float]


def prepare(raw: Interactions, *, min_rating: float = 3.0, core: int = 5, seed: int = 0) -> SplitInteractions:
    """Drops ratings below ``min_rating``, repeats, users and items outside the ``core``-core; splits 3:1:1."""
    keep = _well_rated(raw, min_rating)
    matrix = _matrix(raw.user.codes[keep], raw.item.codes[keep], (len(raw.user.names), len(raw.item.names)))
    distinct = matrix.nnz
    matrix, kept_users, kept_items = k_core(matrix, core)
    if matrix.nnz == 0:
        raise DmrecError(
            f"no interaction is left: of {len(raw)} rows, {keep.sum()} have a rating of at least {min_rating:g}, "
            f"and no {core}-core of users and items remains; lower --min-rating or --k-core"
        )
    splits, moved = split_per_user(matrix, seed)
    report = {
        "rows": len(raw),
        "below_min_rating": int((~keep).sum()),
        "repeated": int(keep.sum()) - distinct,
        "outside_core": distinct - matrix.nnz,
        "moved_to_train": moved,
    }
    return SplitInteractions(splits, _texts(raw.user.names[kept_users]), _texts(raw.item.names[kept_items]), report)


def join(parts: dict[str, Interactions], *, min_rating: float = 3.0) -> SplitInteractions:
    """Tables that are split already: every user and item of any of them, without ratings below ``min_rating``."""
    keep = {split: _well_rated(part, min_rating, f" of {split}") for split, part in parts.items()}
    users = _union([part.user.names[np.unique(part.user.codes[keep[split]])] for split, part in parts.items()])
    items = _union([part.item.names[np.unique(part.item.codes[keep[split]])] for split, part in parts.items()])
    splits = {}
    for split, part in parts.items():
        rows, columns = (
            np.searchsorted(names, _as_text(ids.names) if names.dtype == object else ids.names)[ids.codes[keep[split]]]
            for names, ids in ((users, part.user), (items, part.item))
        )
        splits[split] = _matrix(rows, columns, (len(users), len(items)))
    left = sum(int(each.sum()) for each in keep.values())
    rows = sum(len(part) for part in parts.values())
    repeated = left - sum(int(matrix.nnz) for matrix in splits.values())
    report = {"rows": rows, "below_min_rating": rows - left, "repeated": repeated}
    return SplitInteractions(splits, _texts(users), _texts(items), report)


def _well_rated(raw: Interactions, min_rating: float, where: str = "") -> np.ndarray:
    if not math.isfinite(min_rating):
        raise DmrecError(f"--min-rating must be a number, got {min_rating}")
    if raw.rating is None:
        return np.ones(len(raw), dtype=bool)
    if not np.isfinite(raw.rating).all():
        bad = int((~np.isfinite(raw.rating)).argmax())
        raise DmrecError(f"the rating of interaction {bad + 1}{where} is not a number; correct it or drop the column")
    return raw.rating >= min_rating


def _matrix(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Ones; repeats fall together."""
    matrix = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def _union(names: list[np.ndarray]) -> np.ndarray:
    """All ids in ascending order; as text where not all are whole numbers."""
    if any(each.dtype == object for each in names if len(each)):
        names = [_as_text(each) for each in names]
    return np.unique(np.concatenate(names))


def _as_text(names: np.ndarray) -> np.ndarray:
    return np.array(_texts(names), dtype=object)


def _texts(names: np.ndarray) -> list[str]:
    return list(map(str, names.tolist()))


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

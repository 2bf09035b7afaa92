"""From raw interactions to the three matrices: filters by rating, repeats and number of interactions, then a split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from ...errors import DmrecError, did_you_mean
from ..sequences import Sequences
from ..splits import EQUAL, STRATEGIES, InteractionLog, Order, Shares, split_log
from .interactions import Interactions

REPEATS = ("first", "keep")


@dataclass(frozen=True)
class SplitInteractions:
    """Filtered and split interactions.

    Fields:
        splits: the three matrices, users x items.
        user_ids, item_ids: the ids of rows and columns; empty where they are known by number alone.
        report: what filters and split did, for the manifest.
        sequences: the order of all three splits together; None if the source has none.
    """

    splits: dict[str, sp.csr_matrix]
    user_ids: list[str]
    item_ids: list[str]
    report: dict[str, Any]
    sequences: Sequences | None = None


def prepare(
    raw: Interactions,
    *,
    min_rating: float = 3.0,
    k_core: int = 5,
    split: str = "random",
    repeats: str = "first",
    seed: int = 0,
    shares: Shares = EQUAL,
) -> SplitInteractions:
    """Filters a table and splits it.

    In this order: drops ratings below ``min_rating``; sorts by time, interactions of one time by their row in the
    source; keeps the first of repeated interactions; drops users and items outside the ``k_core``-core; splits.

    Args:
        split: one of `STRATEGIES`.
        repeats: "first". "keep" is refused: a model excludes the items of a user's training part from its
            recommendations, so a repeated item could not be evaluated.
        seed: of the random split.
        shares: what is held out for validation and test.

    Raises:
        DmrecError: an option is unknown, the split needs times and the source has none, or no interaction is left.
    """
    if split not in STRATEGIES:
        raise DmrecError(f"--split {split}: there is {', '.join(STRATEGIES)}{did_you_mean(split, STRATEGIES)}")
    if repeats != "first":
        raise DmrecError(
            f"--repeats {repeats}: only 'first' can be evaluated, since items of training are excluded from rankings"
            if repeats in REPEATS
            else f"--repeats {repeats}: there is {', '.join(REPEATS)}"
        )
    if shares != EQUAL and shares.test > 0 and not STRATEGIES[split].has_shares:
        raise DmrecError(f"--ratios does nothing to --split {split}: leave it out")
    keep = _well_rated(raw, min_rating)
    if STRATEGIES[split].order is Order.TIMES and raw.times is None:
        raise DmrecError(f"--split {split} needs a time for each interaction; name the column: --time-column")
    order = np.flatnonzero(keep)
    if raw.times is not None:
        order = order[np.argsort(raw.times.microseconds[order], kind="stable")]
    shape = (len(raw.user.names), len(raw.item.names))
    distinct = order[_first_of_each(raw.user.codes[order], raw.item.codes[order], shape[1])]
    users, items = raw.user.codes[distinct], raw.item.codes[distinct]
    core, kept_users, kept_items = largest_core(_matrix(users, items, shape), k_core)
    if core.nnz == 0:
        raise DmrecError(
            f"no interaction is left: of {len(raw)} rows, {keep.sum()} have a rating of at least {min_rating:g}, "
            f"and no {k_core}-core of users and items remains; lower --min-rating or --k-core"
        )
    inside = np.isin(users, kept_users) & np.isin(items, kept_items)
    users, items = np.searchsorted(kept_users, users[inside]), np.searchsorted(kept_items, items[inside])
    by_user = np.argsort(users, kind="stable")
    times = None if raw.times is None else raw.times.microseconds[distinct[inside][by_user]]
    log = InteractionLog(users[by_user], items[by_user], times, len(kept_users), len(kept_items))
    splits, counts = split_log(log, split, seed, shares)
    report = {
        "rows": len(raw),
        "below_min_rating": int((~keep).sum()),
        "repeated": len(order) - len(distinct),
        "outside_core": len(distinct) - core.nnz,
        **counts,
    }
    ids = _texts(raw.user.names[kept_users]), _texts(raw.item.names[kept_items])
    if raw.times is None and STRATEGIES[split].order is Order.NONE:
        return SplitInteractions(splits, *ids, report)  # the rows of a table are an order only where a split needs one
    return SplitInteractions(splits, *ids, report | _order(raw, log), _sequences(log))


def join(parts: dict[str, Interactions], *, min_rating: float = 3.0) -> SplitInteractions:
    """Joins tables that are split already: every user and item of any of them, without ratings below ``min_rating``.

    They have an order if all three have times.
    """
    rated = [split for split, part in parts.items() if part.rating is not None]
    if rated and len(rated) < len(parts):
        unrated = [split for split in parts if split not in rated]
        raise DmrecError(
            f"{' and '.join(rated)} have ratings and {' and '.join(unrated)} none, but the three must mean "
            "the same; leave the ratings out (--no-rating), or add them"
        )
    keep = {split: _well_rated(part, min_rating, f" of {split}") for split, part in parts.items()}
    users = _union([part.user.names[np.unique(part.user.codes[keep[split]])] for split, part in parts.items()])
    items = _union([part.item.names[np.unique(part.item.codes[keep[split]])] for split, part in parts.items()])
    shape = (len(users), len(items))
    splits, entries, times = {}, [], []
    for split, part in parts.items():
        rows, columns = (
            np.searchsorted(names, _as_text(ids.names) if names.dtype == object else ids.names)[ids.codes[keep[split]]]
            for names, ids in ((users, part.user), (items, part.item))
        )
        splits[split] = _matrix(rows, columns, shape)
        entries.append((rows, columns))
        times += [] if part.times is None else [part.times.microseconds[keep[split]]]
    left = sum(int(each.sum()) for each in keep.values())
    total = sum(len(part) for part in parts.values())
    repeated = left - sum(int(matrix.nnz) for matrix in splits.values())
    report: dict[str, Any] = {"rows": total, "below_min_rating": total - left, "repeated": repeated}
    if len(times) < len(parts):
        return SplitInteractions(splits, _texts(users), _texts(items), report)
    rows, columns, moments = (np.concatenate(each) for each in (*zip(*entries, strict=True), times))
    order = np.argsort(moments, kind="stable")
    order = order[_first_of_each(rows[order], columns[order], shape[1])]
    order = order[np.argsort(rows[order], kind="stable")]
    log = InteractionLog(rows[order], columns[order], moments[order], *shape)
    report |= _order(parts["train"], log)
    return SplitInteractions(splits, _texts(users), _texts(items), report, _sequences(log))


def _first_of_each(users: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """Positions of the first entry of each user and item, ascending."""
    _, first = np.unique(users.astype(np.int64) * n_items + items, return_index=True)
    return np.sort(first)


def _sequences(log: InteractionLog) -> Sequences:
    seconds = None if log.times is None else log.times // 1_000_000
    return Sequences.from_log(log.users, log.items, seconds, log.n_users, log.n_items)


def _order(raw: Interactions, log: InteractionLog) -> dict[str, Any]:
    """Where the order comes from, for the manifest."""
    if log.times is None or raw.times is None:
        return {"order": {"by": "rows of the source"}}
    equal = (np.diff(log.times) == 0) & (np.diff(log.users) == 0)
    order = {"by": "time", "column": raw.columns.get("time"), "unit": raw.times.unit, "equal_times": int(equal.sum())}
    return {"order": {name: value for name, value in order.items() if value is not None}}


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
    """A matrix of ones; repeated entries become one."""
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


def largest_core(matrix: sp.csr_matrix, k: int) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
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

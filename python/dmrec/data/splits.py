"""Splits interactions into training, validation and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError

SHARE = 0.2  # of the interactions, for validation and for test each
TRAIN, VALID, TEST = 0, 1, 2


class Order(IntEnum):
    """What a split needs to know of the order of interactions."""

    NONE = 0
    WITHIN_USERS = 1  # times, or else the rows of the source
    TIMES = 2


@dataclass(frozen=True)
class InteractionLog:
    """Distinct interactions, sorted by user, then from old to new.

    Fields:
        users, items: (n,) int64, rows and columns.
        times: (n,) int64, microseconds since 1970, or None.
        n_users, n_items: the shape of the matrices.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    n_users: int
    n_items: int

    @property
    def counts(self) -> np.ndarray:
        """(n_users,) int64: how many interactions each user has."""
        return np.bincount(self.users, minlength=self.n_users)

    @property
    def age(self) -> np.ndarray:
        """(n,) int64: the position of each interaction within its user, counted from the newest, which is 0."""
        return np.asarray(np.cumsum(self.counts)[self.users] - 1 - np.arange(len(self.users)))


@dataclass(frozen=True)
class SplitStrategy:
    """A way to split.

    Fields:
        assign: from a log and a seed, ``TRAIN``, ``VALID`` or ``TEST`` for each interaction (n,), and counts for the
            manifest.
        order: what it needs to know of the order of interactions.
    """

    assign: Callable[[InteractionLog, int], tuple[np.ndarray, dict[str, int]]]
    order: Order = Order.WITHIN_USERS


def at_random(log: InteractionLog, seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """A fifth of each user's interactions at random for validation, a fifth for test, rounded; the rest for training.

    Held-out interactions with an item that has none in training go back to training.
    """
    by_item = np.lexsort((log.items, log.users))  # so that the split depends on the seed and not on the order
    users, items = log.users[by_item], log.items[by_item]
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    position = np.empty(len(users), dtype=np.int64)
    position[order] = np.arange(len(users)) - (np.cumsum(log.counts) - log.counts)[users]
    held_out = np.rint(log.counts * SHARE).astype(np.int64)[users]
    part = np.where(position < held_out, VALID, np.where(position < 2 * held_out, TEST, TRAIN))
    unseen = (part != TRAIN) & ~_seen(items, part, log.n_items)[items]
    part[unseen] = TRAIN
    assigned = np.empty_like(part)
    assigned[by_item] = part
    return assigned, {"moved_to_train": int(unseen.sum())}


def leave_one_out(log: InteractionLog, _seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """Each user's last interaction for test, the last but one for validation; users with fewer than 3 keep all."""
    enough = log.counts >= 3
    part = np.select([log.age == 0, log.age == 1], [TEST, VALID], TRAIN)
    part[~enough[log.users]] = TRAIN
    return part, {"users_not_tested": int((log.counts > 0).sum() - enough.sum())}


def by_time(log: InteractionLog, _seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """The last fifth of all interactions for test, the fifth before for validation: one cut for all users.

    Interactions of one time are never divided, so the shares are near a fifth and not exactly that. Each part has at
    least the interactions of one time.
    """
    if log.times is None:
        raise DmrecError("the split 'time' needs the time of each interaction; name their column: --time-column")
    times, position = np.unique(log.times, return_inverse=True)
    if len(times) < 3:
        raise DmrecError(
            f"the split 'time' cannot cut {len(log.times)} interactions with {len(times)} different times into three "
            "parts, each of later times than the one before; choose another split (--split random)"
        )
    held_out = max(round(len(log.times) * SHARE), 1)
    ordered = np.sort(position)
    first_test = max(ordered[-held_out], 2)
    first_valid = max(min(ordered[-2 * held_out], first_test - 1), 1)
    return np.select([position >= first_test, position >= first_valid], [TEST, VALID], TRAIN), {}


def by_time_per_user(log: InteractionLog, _seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """The last fifth of each user's interactions, rounded, for test; the fifth before for validation."""
    held_out = np.rint(log.counts * SHARE).astype(np.int64)[log.users]
    return np.select([log.age < held_out, log.age < 2 * held_out], [TEST, VALID], TRAIN), {}


STRATEGIES: dict[str, SplitStrategy] = {
    "random": SplitStrategy(at_random, Order.NONE),
    "leave-one-out": SplitStrategy(leave_one_out),
    "time": SplitStrategy(by_time, Order.TIMES),
    "time-per-user": SplitStrategy(by_time_per_user),
}
"""The splits by the name that ``--split`` takes and the manifest holds."""


def split_log(log: InteractionLog, strategy: str, seed: int) -> tuple[dict[str, sp.csr_matrix], dict[str, int]]:
    """The three matrices that ``STRATEGIES[strategy]`` makes of ``log``, float32 ones, and counts for the manifest."""
    part, report = STRATEGIES[strategy].assign(log, seed)
    splits = {}
    for number, name in enumerate(("train", "valid", "test")):
        users, items = log.users[part == number], log.items[part == number]
        ones = np.ones(len(users), dtype=np.float32)
        splits[name] = sp.csr_matrix((ones, (users, items)), shape=(log.n_users, log.n_items))
    if STRATEGIES[strategy].order is not Order.NONE:
        held_out = part != TRAIN
        for kind, entries, count in (("items", log.items, log.n_items), ("users", log.users, log.n_users)):
            report[f"held_out_of_unseen_{kind}"] = int((held_out & ~_seen(entries, part, count)[entries]).sum())
    return splits, report


def split_per_user(matrix: sp.csr_matrix, seed: int) -> tuple[dict[str, sp.csr_matrix], int]:
    """`at_random` of a matrix (users x items): the three matrices, and how many interactions went back to training."""
    matrix = matrix.tocsr()
    users = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    splits, report = split_log(InteractionLog(users, matrix.indices, None, *matrix.shape), "random", seed)
    return splits, report["moved_to_train"]


def _seen(entries: np.ndarray, part: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool: which users or items have an interaction in training."""
    seen = np.zeros(count, dtype=bool)
    seen[entries[part == TRAIN]] = True
    return seen

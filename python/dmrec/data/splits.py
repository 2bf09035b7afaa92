"""Splits interactions into training, validation and test."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError

TRAIN, VALID, TEST = 0, 1, 2
COUNTS = {2: "two", 3: "three"}


class Shares(NamedTuple):
    """What share of the interactions is held out."""

    valid: float = 0.2
    test: float = 0.2

    @classmethod
    def of(cls, ratios: str) -> Shares:
        """From numbers such as ``"8:1:1"`` for training, validation and test; the last may be 0.

        Raises:
            DmrecError: these are not three numbers, or training or validation would be empty.
        """
        try:
            train, valid, test = (float(part) for part in re.split(r"[:/,]", ratios))
        except ValueError:
            raise DmrecError(f"--ratios {ratios}: must be three numbers, such as 8:1:1") from None
        total = train + valid + test
        if not (train > 0 and valid > 0 and test >= 0 and math.isfinite(total)):
            raise DmrecError(
                f"--ratios {ratios}: training and validation, which chooses epochs and settings, must be above 0, "
                "and test 0 or more"
            )
        return cls(valid / total, test / total)


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
        assign: from a log, a seed and shares, ``TRAIN``, ``VALID`` or ``TEST`` for each interaction (n,), and counts
            for the manifest.
        order: what it needs to know of the order of interactions.
        has_shares: whether shares matter but for a test share of 0, which leaves test out.
    """

    assign: Callable[[InteractionLog, int, Shares], tuple[np.ndarray, dict[str, int]]]
    order: Order = Order.WITHIN_USERS
    has_shares: bool = True


def at_random(log: InteractionLog, seed: int, shares: Shares) -> tuple[np.ndarray, dict[str, int]]:
    """Shares of each user's interactions, rounded, at random for validation and test; the rest for training.

    Held-out interactions with an item that has none in training go back to training.
    """
    by_item = np.lexsort((log.items, log.users))  # so that the split depends on the seed and not on the order
    users, items = log.users[by_item], log.items[by_item]
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    position = np.empty(len(users), dtype=np.int64)
    position[order] = np.arange(len(users)) - (np.cumsum(log.counts) - log.counts)[users]
    part = parts_by_position(users, position, log.counts, shares)
    unseen = (part != TRAIN) & ~_seen(items, part, log.n_items)[items]
    part[unseen] = TRAIN
    assigned = np.empty_like(part)
    assigned[by_item] = part
    return assigned, {"moved_to_train": int(unseen.sum())}


def parts_by_position(users: np.ndarray, position: np.ndarray, counts: np.ndarray, shares: Shares) -> np.ndarray:
    """The part of each interaction: of its user's ``counts`` those at the first positions, a rounded share, are for
    validation, the next for test.
    """
    valid, test = (np.rint(counts * share).astype(np.int64)[users] for share in shares)
    return np.where(position < valid, VALID, np.where(position < valid + test, TEST, TRAIN))


def leave_one_out(log: InteractionLog, _seed: int, shares: Shares) -> tuple[np.ndarray, dict[str, int]]:
    """Each user's last interaction for test, the last but one for validation; users with fewer than 3 keep all.

    Without test, the last is for validation, and users with one keep it.
    """
    held_out = [TEST, VALID] if shares.test else [VALID]
    enough = log.counts > len(held_out)
    part = np.select([log.age == age for age in range(len(held_out))], held_out, TRAIN)
    part[~enough[log.users]] = TRAIN
    return part, {"users_not_tested": int((log.counts > 0).sum() - enough.sum())}


def by_time(log: InteractionLog, _seed: int, shares: Shares) -> tuple[np.ndarray, dict[str, int]]:
    """The last interactions of all for test, those before for validation: one cut for all users.

    Interactions of one time are never divided, so the shares are nearly those asked for. Each part has at least the
    interactions of one time.
    """
    if log.times is None:
        raise DmrecError("the split 'time' needs the time of each interaction; name their column: --time-column")
    times, position = np.unique(log.times, return_inverse=True)
    parts = 3 if shares.test else 2
    if len(times) < parts:
        different = f"{len(times)} different times" if len(times) > 1 else "one time"
        raise DmrecError(
            f"the split 'time' cannot cut {len(log.times)} interactions with {different} into {COUNTS[parts]} "
            "parts, each of later times than the one before; choose another split (--split random)"
        )
    n_test = max(round(len(log.times) * shares.test), 1) if shares.test else 0
    n_valid = max(round(len(log.times) * shares.valid), 1)
    ordered = np.sort(position)
    first_test = max(ordered[-n_test], 2) if n_test else len(times)
    first_valid = max(min(ordered[max(len(ordered) - n_test - n_valid, 0)], first_test - 1), 1)
    return np.select([position >= first_test, position >= first_valid], [TEST, VALID], TRAIN), {}


def by_time_per_user(log: InteractionLog, _seed: int, shares: Shares) -> tuple[np.ndarray, dict[str, int]]:
    """The last interactions of each user, a rounded share, for test; those before for validation."""
    valid, test = (np.rint(log.counts * share).astype(np.int64)[log.users] for share in shares)
    return np.select([log.age < test, log.age < test + valid], [TEST, VALID], TRAIN), {}


EQUAL = Shares()
"""3:1:1."""
NO_TEST = Shares(0.2, 0.0)
"""4:1."""


def shares_of(ratios: str | None, no_test: bool) -> Shares:
    """The shares that are asked for.

    Raises:
        DmrecError: the ratios are not three numbers, or hold out for test what nothing is to be held out for.
    """
    shares = (NO_TEST if no_test else EQUAL) if ratios is None else Shares.of(ratios)
    if no_test and shares.test:
        raise DmrecError(f"--no-test and --ratios {ratios} exclude each other: make the last of the ratios 0")
    return shares


STRATEGIES: dict[str, SplitStrategy] = {
    "random": SplitStrategy(at_random, Order.NONE),
    "leave-one-out": SplitStrategy(leave_one_out, has_shares=False),
    "time": SplitStrategy(by_time, Order.TIMES),
    "time-per-user": SplitStrategy(by_time_per_user),
}
"""The splits by the name that ``--split`` takes and the manifest holds."""


def split_log(
    log: InteractionLog, strategy: str, seed: int, shares: Shares = EQUAL
) -> tuple[dict[str, sp.csr_matrix], dict[str, int]]:
    """The three matrices that ``STRATEGIES[strategy]`` makes of ``log``, float32 ones, and counts for the manifest."""
    part, report = STRATEGIES[strategy].assign(log, seed, shares)
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

"""The random split of interactions that are larger than memory, in two passes: the first decides, the second writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError
from ..interactions import Block
from ..splits import TRAIN, Shares, parts_by_position
from ..storage import SPLITS


class StreamedSplit:
    """Takes interactions sorted by user and item, and gives them back by split, in blocks of users.

    Which of a user's interactions are held out follows from a hash of (seed, user, item), so it depends neither on the
    batches nor on other users. Held-out interactions whose item has none in training go back to training; which these
    are is known when all have been taken.

    Args:
        scratch: a folder for temporary files: 5 bytes for each interaction, 9 from 2^31 items.
        n_users, n_items: the size of the matrices; each user has an interaction.
        seed: decides what is held out.
        shares: of each user's interactions for validation and test.
    """

    def __init__(self, scratch: Path, n_users: int, n_items: int, seed: int, shares: Shares) -> None:
        self._n_users, self._seed, self._shares = n_users, seed, shares
        self._kind = np.dtype(np.int32 if n_items < 2**31 else np.int64)
        self._paths = tuple(scratch / f"{name}.split" for name in ("counts", "items", "parts"))
        self._sizes = list[tuple[int, int]]()  # users and interactions of each block
        self._in_training = np.zeros(n_items, dtype=bool)
        self.moved_to_train = 0
        self.interactions = dict.fromkeys(SPLITS, 0)

    def take(self, batches: Iterable[Any]) -> None:
        """The first pass: decides. ``batches``: record batches of users and items, both int64, all of them.

        Raises:
            DmrecError: there are not the users that were promised.
        """
        counts_file, items_file, parts_file = (path.open("wb") for path in self._paths)
        first = 0
        with counts_file, items_file, parts_file:
            for users, items in _whole_users(batches):
                counts = np.bincount(users - first)
                part = held_out(users - first, items, counts, first, self._seed, self._shares)
                self._in_training[items[part == TRAIN]] = True
                counts_file.write(counts.astype(np.int64).data)
                items_file.write(items.astype(self._kind).data)
                parts_file.write(part.astype(np.uint8).data)
                self._sizes.append((len(counts), len(items)))
                first += len(counts)
        if first != self._n_users:
            raise DmrecError(
                f"the engine returned {first} users where there are {self._n_users}: this is an error of it"
            )

    def blocks(self) -> Iterator[dict[str, Block]]:
        """The second pass: all interactions, in blocks of consecutive users.

        Raises:
            DmrecError: at the end, where a split that was asked for has no interactions.
        """
        counts_file, items_file, parts_file = (path.open("rb") for path in self._paths)
        with counts_file, items_file, parts_file:
            for n_users, size in self._sizes:
                counts = np.fromfile(counts_file, dtype=np.int64, count=n_users)
                items = np.fromfile(items_file, dtype=self._kind, count=size)
                part = np.fromfile(parts_file, dtype=np.uint8, count=size)
                unseen = (part != TRAIN) & ~self._in_training[items]
                part[unseen] = TRAIN
                self.moved_to_train += int(unseen.sum())
                users = np.repeat(np.arange(n_users), counts)
                block = {}
                for number, split in enumerate(SPLITS):
                    there = part == number
                    crow = np.concatenate([[0], np.cumsum(np.bincount(users[there], minlength=n_users))])
                    block[split] = Block(crow, items[there])
                    self.interactions[split] += int(crow[-1])
                yield block
        for split in SPLITS if self._shares.test else SPLITS[:2]:
            if not self.interactions[split]:
                raise DmrecError(f"no interaction is left for {split}: import more of each user, or of each item")


def held_out(
    users: np.ndarray, items: np.ndarray, counts: np.ndarray, first: int, seed: int, shares: Shares
) -> np.ndarray:
    """The part of each interaction, before any goes back to training.

    Args:
        users: (n,) rows of the block, ascending, each with all its interactions.
        items: (n,) columns, ascending within a user.
        counts: interactions of each user of the block.
        first: the row of the block's first user.
        seed, shares: see `StreamedSplit`.
    """
    key = _mixed(np.array([seed], dtype=np.uint64))
    key = _mixed(_mixed(key ^ (users + first).astype(np.uint64)) ^ items.astype(np.uint64))
    order = np.lexsort((key, users))
    position = np.empty(len(users), dtype=np.int64)
    position[order] = np.arange(len(users)) - (np.cumsum(counts) - counts)[users]
    return parts_by_position(users, position, counts, shares)


def _mixed(value: np.ndarray) -> np.ndarray:
    """A step of the generator splitmix64: uint64 whose bits all depend on all bits of ``value``."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))


def _whole_users(batches: Iterable[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Users and items of record batches, cut between users."""
    left = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for batch in batches:
        if not len(batch):
            continue
        columns = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        users, items = (np.concatenate([before, column]) for before, column in zip(left, columns, strict=True))
        falls = (np.diff(users) < 0) | ((np.diff(users) == 0) & (np.diff(items) <= 0))
        if falls.any():
            raise DmrecError("the engine returned pairs that are not sorted: this is an error of its version")
        cut = int(np.searchsorted(users, users[-1]))
        if cut:
            yield users[:cut], items[:cut]
        left = users[cut:], items[cut:]
    if len(left[0]):
        yield left

"""Who interacted with what, as a source has it: columns of ids and, where it has them, of ratings and times."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import DmrecError
from ..entities import fault_of_id
from .times import TimeColumn, Times


@dataclass(frozen=True)
class Ids:
    """A column of ids: the distinct ones in ascending order, and the position of each entry's id among them."""

    names: np.ndarray  # int64 where all ids are whole numbers, else strings (object)
    codes: np.ndarray  # int64

    @classmethod
    def of(cls, values: Sequence[object]) -> Ids:
        """A column from the ids of all entries, in order."""
        known: dict[str, int] = {}
        codes = [known.setdefault(str(value), len(known)) for value in values]
        return sorted_ids(list(known), np.array(codes))


@dataclass(frozen=True)
class Interactions:
    """A table of interactions in the order of the source, one entry each.

    Fields:
        user, item: ids.
        rating: (n,) float64, or None.
        columns: the names of the source's columns by role ("user", "item", "rating", "time").
        unrated: number of rows that were left out because they have no rating and others do.
        times: one for each entry, or None.
    """

    user: Ids
    item: Ids
    rating: np.ndarray | None = None
    columns: dict[str, str] = field(default_factory=dict)
    unrated: int = 0
    times: Times | None = None

    def __len__(self) -> int:
        return len(self.user.codes)


class InteractionBuilder:
    """Takes interactions one by one, in memory that grows with their number and not with the length of their ids.

    ``place``: the file they come from, for errors. ``times``: the column that the caller adds a time to for each
    interaction, if the source has times.
    """

    def __init__(self, place: str = "", times: TimeColumn | None = None) -> None:
        self._place = place
        self._times = times
        self._known: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._codes = (array("q"), array("q"))
        self._ratings = array("d")

    def add(self, user: str, item: str, rating: float | None = None) -> None:
        """Adds one interaction. If one has a rating, all must have one."""
        for known, codes, name in zip(self._known, self._codes, (user, item), strict=True):
            codes.append(known.setdefault(name, len(known)))
        if rating is not None:
            self._ratings.append(rating)

    def interactions(self, columns: dict[str, str] | None = None, unrated: int = 0) -> Interactions:
        """All that were added; ``columns`` and ``unrated`` as in `Interactions`."""
        user, item = (
            sorted_ids(list(k), np.array(c), self._place) for k, c in zip(self._known, self._codes, strict=True)
        )
        rating = np.array(self._ratings) if self._ratings else None
        times = self._times.times() if self._times and len(user.codes) else None
        return Interactions(user, item, rating, columns or {}, unrated, times)


def sorted_ids(names: list[str], codes: np.ndarray, place: str = "") -> Ids:
    """A column from distinct ids in any order, and the position of each entry's id among them.

    Whole numbers are sorted as numbers, so that rows and columns keep a natural order. ``place``: the file, for errors.

    Raises:
        DmrecError: an id is too long, or has control characters.
    """
    for name in names:
        if (fault := fault_of_id(name)) is not None:
            raise DmrecError(f"{place}: {fault}" if place else fault)
    distinct = np.array(names, dtype=object)
    with contextlib.suppress(ValueError, OverflowError):
        numbers = distinct.astype(np.int64)
        if all(map(str.__eq__, map(str, numbers.tolist()), names)):
            distinct = numbers
    order = np.argsort(distinct)
    new = np.empty(len(order), dtype=np.int64)
    new[order] = np.arange(len(order))
    return Ids(distinct[order], new[codes.astype(np.int64)])

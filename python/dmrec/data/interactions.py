"""Who interacted with what, as it stands in a source: columns of ids and, where there is one, of ratings."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Ids:
    """A column of ids: the distinct ones in ascending order, and which of them each entry is."""

    names: np.ndarray  # int64 where all ids are whole numbers, else str
    codes: np.ndarray  # int64

    @classmethod
    def of(cls, values: ArrayLike) -> Ids:
        """From the ids of all entries."""
        names, codes = np.unique(values, return_inverse=True)
        return cls(names, codes)


@dataclass(frozen=True)
class Interactions:
    """One entry each; the rating may be missing."""

    user: Ids
    item: Ids
    rating: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user.codes)


class Collector:
    """Takes interactions one by one, in memory that grows with their number and not with the length of their ids."""

    def __init__(self) -> None:
        self._known: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._codes = (array("q"), array("q"))
        self._ratings = array("d")

    def add(self, user: str, item: str, rating: float | None = None) -> None:
        """One interaction; with ratings, all must have one."""
        for known, codes, name in zip(self._known, self._codes, (user, item), strict=True):
            codes.append(known.setdefault(name, len(known)))
        if rating is not None:
            self._ratings.append(rating)

    def interactions(self) -> Interactions:
        """All that were taken."""
        user, item = (sorted_ids(list(k), np.array(c)) for k, c in zip(self._known, self._codes, strict=True))
        return Interactions(user, item, np.array(self._ratings) if self._ratings else None)


def sorted_ids(names: list[str], codes: np.ndarray) -> Ids:
    """From distinct ids in any order, and which of them each entry is.

    Whole numbers are sorted as numbers, so that rows and columns keep a natural order.
    """
    distinct = np.array(names, dtype=str)
    try:
        numbers = distinct.astype(np.int64)
        if (numbers.astype(str) == distinct).all():
            distinct = numbers
    except (ValueError, OverflowError):
        pass
    order = np.argsort(distinct)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return Ids(distinct[order], place[codes.astype(np.int64)])

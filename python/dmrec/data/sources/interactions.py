"""Who interacted with what, as it stands in a source: columns of ids and, where there is one, of ratings."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import DmrecError
from ..entities import fault_of_id


@dataclass(frozen=True)
class Ids:
    """A column of ids: the distinct ones in ascending order, and which of them each entry is."""

    names: np.ndarray  # int64 where all ids are whole numbers, else strings (object)
    codes: np.ndarray  # int64

    @classmethod
    def of(cls, values: Sequence[object]) -> Ids:
        """From the ids of all entries."""
        known: dict[str, int] = {}
        codes = [known.setdefault(str(value), len(known)) for value in values]
        return sorted_ids(list(known), np.array(codes))


@dataclass(frozen=True)
class Interactions:
    """One entry each; the rating may be missing. ``columns``: what the source calls user, item and rating.

    ``unrated``: how many rows were left out, having no rating where others have one.
    """

    user: Ids
    item: Ids
    rating: np.ndarray | None = None
    columns: dict[str, str] = field(default_factory=dict)
    unrated: int = 0

    def __len__(self) -> int:
        return len(self.user.codes)


class InteractionBuilder:
    """Takes interactions one by one, in memory that grows with their number and not with the length of their ids.

    ``place``: the file they are from, for errors.
    """

    def __init__(self, place: str = "") -> None:
        self._place = place
        self._known: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._codes = (array("q"), array("q"))
        self._ratings = array("d")

    def add(self, user: str, item: str, rating: float | None = None) -> None:
        """One interaction; with ratings, all must have one."""
        for known, codes, name in zip(self._known, self._codes, (user, item), strict=True):
            codes.append(known.setdefault(name, len(known)))
        if rating is not None:
            self._ratings.append(rating)

    def interactions(self, columns: dict[str, str] | None = None) -> Interactions:
        """All that were taken; ``columns``: what the source calls user, item and rating."""
        user, item = (
            sorted_ids(list(k), np.array(c), self._place) for k, c in zip(self._known, self._codes, strict=True)
        )
        return Interactions(user, item, np.array(self._ratings) if self._ratings else None, columns or {})


def sorted_ids(names: list[str], codes: np.ndarray, place: str = "") -> Ids:
    """From distinct ids in any order, and which of them each entry is.

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

"""Who interacted with what, as a source has it: columns of ids and, where it has them, of ratings and times."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import DmrecError
from ..entities import fault_of_id
from .times import TimeColumn, Times
from .values import clean_ids

MOST_MISSING = 0.2
"""The largest share of rows without an id that is dropped. Beyond it, another column is probably meant."""


@dataclass(frozen=True)
class Ids:
    """A column of ids: the distinct ones in ascending order, and the position of each entry's id among them."""

    names: np.ndarray  # int64 where all ids are whole numbers, else strings (object)
    codes: np.ndarray  # int64; -1 for an entry without an id

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
        notes: how the source was read and what was left out, by name, for the manifest.
    """

    user: Ids
    item: Ids
    rating: np.ndarray | None = None
    columns: dict[str, str] = field(default_factory=dict)
    unrated: int = 0
    times: Times | None = None
    notes: dict[str, Any] = field(default_factory=dict)

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
        self._users: dict[str | None, int] = {}
        self._items: dict[str | None, int] = {}
        self._user_codes, self._item_codes, self._ratings = array("q"), array("q"), array("d")

    def add(self, user: str | None, item: str | None, rating: float | None = None) -> None:
        """Adds one interaction. If one has a rating, all must have one. One without a user or item is dropped later."""
        users, items = self._users, self._items
        self._user_codes.append(users.setdefault(user, len(users)))
        self._item_codes.append(items.setdefault(item, len(items)))
        if rating is not None:
            self._ratings.append(rating)

    def interactions(
        self, columns: dict[str, str] | None = None, unrated: int = 0, notes: dict[str, Any] | None = None
    ) -> Interactions:
        """All that were added; ``columns``, ``unrated`` and ``notes`` as in `Interactions`."""
        names = [(list(self._users), np.array(self._user_codes)), (list(self._items), np.array(self._item_codes))]
        rating = np.array(self._ratings) if self._ratings else None
        times = self._times.times() if self._times and self._user_codes else None
        return interactions_from(names, rating, times, self._place, columns or {}, unrated, notes or {})


def interactions_from(
    names: Sequence[tuple[Sequence[str | None], np.ndarray]],
    rating: np.ndarray | None,
    times: Times | None,
    place: str,
    columns: dict[str, str],
    unrated: int,
    notes: dict[str, Any],
) -> Interactions:
    """Interactions from distinct ids as they are written and the position of each entry's among them, of users and of
    items. Ids are cleaned (`clean_ids`), and entries without one are dropped and counted.

    Raises:
        DmrecError: an id cannot be one, or more than `MOST_MISSING` of the entries have none.
    """
    ids, notes = [], {**({"columns": columns} if columns else {}), **notes}
    for role, (written, codes) in zip(("user", "item"), names, strict=True):
        where = f"{place}, column {columns[role]}" if role in columns else place
        cleaned = clean_ids(written, where)
        column = sorted_ids([name or "" for name in cleaned], codes, place, missing="")
        pairs = zip(written, cleaned, strict=True)
        changed = np.array([old is not None and new is not None and old != new for old, new in pairs], dtype=bool)
        if count := int(np.count_nonzero(changed[codes])) if len(codes) else 0:
            notes[f"{role}_ids_cleaned"] = count
        without = column.codes < 0
        if count := int(np.count_nonzero(without)):
            if count > MOST_MISSING * len(codes):
                raise DmrecError(
                    f"{where}: row {int(without.argmax()) + 1} has no id ('{written[codes[int(without.argmax())]]}'), "
                    f"and so have {count} of {len(codes)} rows; fill them in, drop these rows, or choose another "
                    f"column: --{role}-column"
                )
            notes[f"rows_without_{role}"] = count
        ids.append(column)
    there = (ids[0].codes >= 0) & (ids[1].codes >= 0)
    if not there.all():
        ids = [_used(Ids(each.names, each.codes[there])) for each in ids]
        rating = None if rating is None else rating[there]
        times = None if times is None else Times(times.microseconds[there], times.unit)
    return Interactions(ids[0], ids[1], rating, columns, unrated, times, notes)


def _used(ids: Ids) -> Ids:
    """Without the names that no entry has."""
    used, codes = np.unique(ids.codes, return_inverse=True)
    return Ids(ids.names[used], codes)


def sorted_ids(names: Sequence[str], codes: np.ndarray, place: str = "", missing: str | None = None) -> Ids:
    """A column from ids in any order, which may have repetitions, and the position of each entry's id among them.

    Whole numbers are sorted as numbers, so that rows and columns keep a natural order.

    Args:
        names: the ids.
        codes: (n,) positions in ``names``.
        place: the file, for errors.
        missing: what stands for an absent id, which has the code -1.

    Raises:
        DmrecError: an id is too long, or has control characters.
    """
    known: dict[str, int] = {}
    place_of = np.array([-1 if name == missing else known.setdefault(name, len(known)) for name in names], np.int64)
    for name in known:
        if (fault := fault_of_id(name)) is not None:
            raise DmrecError(f"{place}: {fault}" if place else fault)
    distinct = np.array(list(known), dtype=object)
    with contextlib.suppress(ValueError, OverflowError):
        numbers = distinct.astype(np.int64)
        if all(map(str.__eq__, map(str, numbers.tolist()), known)):
            distinct = numbers
    order = np.argsort(distinct)
    new = np.empty(len(order) + 1, dtype=np.int64)
    new[order] = np.arange(len(order))
    new[-1] = -1  # for those without an id
    return Ids(distinct[order], new[place_of[codes.astype(np.int64)]] if len(codes) else np.zeros(0, np.int64))

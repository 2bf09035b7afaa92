"""Times of interactions: numbers since 1970, whose unit their magnitude shows, or dates as ISO 8601 writes them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...errors import DmrecError
from .values import is_missing, number_of

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
FROM = (1e8, 1e11, 1e14, 1e17)
"""Magnitudes from which a number shows its unit: each is March 1973 in it; smaller numbers may have any unit."""
BEYOND = 2.0**62  # microseconds


@dataclass(frozen=True)
class Times:
    """A column of times.

    Fields:
        microseconds: (n,) int64 since 1970-01-01 UTC.
        unit: what the column held: "seconds", "milliseconds", .., "dates" or "timestamps".
    """

    microseconds: np.ndarray
    unit: str


class TimeColumn:
    """Takes the times of a column one by one. The first one says whether all are numbers or dates.

    ``place``: the file and the column, for errors.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._values = array("d")
        self._rows = array("q")
        self._dates = False

    def __len__(self) -> int:
        return len(self._values)

    def add(self, row: int, value: Any) -> None:
        """The time in ``row`` of the source, counted from 1: a number, or text with a number or a date.

        Raises:
            DmrecError: it is missing, or neither a number nor a date, or a number among dates.
        """
        if type(value) is str and value.isdigit() and value.isascii() and len(value) < 20 and not self._dates:
            self._values.append(float(value))  # what nearly all columns hold
            self._rows.append(row)
            return
        if is_missing(value):
            raise no_time(self._place, row)
        if not self._values:
            self._dates = isinstance(value, str) and number_of(value) is None
        time = _date(value) if self._dates else number_of(value)
        if time is None:
            expected = "a date like those before" if self._dates else "a number or a date (YYYY-MM-DD HH:MM:SS)"
            raise DmrecError(
                f"{self._place}: '{value}' in row {row} is not {expected}; correct it, or leave times out: "
                "--time-column none"
            )
        self._values.append(time)
        self._rows.append(row)

    def times(self) -> Times:
        """All times that were added."""
        values = np.array(self._values)
        if self._dates:
            return Times(_checked(values * 1e6, self._place), "dates")
        return times_of_numbers(values, self._place, np.array(self._rows))


def times_of_numbers(values: np.ndarray, place: str, rows: np.ndarray | None = None) -> Times:
    """Times from whole or fractional numbers since 1970 in one unit, which their magnitude shows.

    ``rows``: the row of each value in the source, for errors; default 1, 2, ..

    Raises:
        DmrecError: some are so large that they have another unit than others, or beyond any date.
    """
    unit_of = np.searchsorted(FROM, np.abs(values.astype(np.float64)), side="right")  # 0: too small to tell
    last = int(unit_of.max(initial=0))
    if (mixed := (unit_of > 0) & (unit_of < last)).any():
        found = (int(mixed.argmax()), int(unit_of.argmax()))
        first, second = found if rows is None else (int(rows[i]) - 1 for i in found)
        raise DmrecError(
            f"{place}: row {first + 1} has {UNITS[unit_of[found[0]] - 1]} since 1970, row {second + 1} "
            f"{UNITS[last - 1]}; convert all times to one unit"
        )
    unit = UNITS[max(last - 1, 0)]
    scaled = values // 1000 if unit == "nanoseconds" else values * 1000 ** (2 - UNITS.index(unit))
    return Times(_checked(scaled, place), unit)


def no_time(place: str, row: int) -> DmrecError:
    """Some rows have a time and this one does not, so there is no order."""
    return DmrecError(f"{place}: row {row} has no time; drop the row or the column (--time-column none)")


def _date(value: Any) -> float | None:
    """Seconds since 1970 of a date in ISO 8601; without a zone it is UTC."""
    try:
        date = datetime.fromisoformat(str(value).strip())
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _checked(microseconds: np.ndarray, place: str) -> np.ndarray:
    if (np.abs(microseconds.astype(np.float64)) >= BEYOND).any():
        raise DmrecError(f"{place}: a time is beyond any date")
    return np.asarray(np.rint(microseconds), dtype=np.int64)

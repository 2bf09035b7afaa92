"""Reads single values of tables: ids and numbers, as spreadsheets, databases and programs write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ...errors import DmrecError

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
WHOLE_FLOAT = re.compile(r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
LARGEST = 1.7e308  # of a number; larger ones, infinity and NaN are none
EXACT = 2.0**53  # whole numbers beyond it are not exact as floating-point numbers
AROUND = (
    " \t\r\n\v\f\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
"""Characters that are taken off the ends of ids: spaces, also those that do not break or have no width, and BOMs."""
MISSING = {"", "NULL", "Null", "null", "None", "NONE", "none", "nan", "NaN", "NAN", "NaT", "NA", "N/A", "n/a", "#N/A"}
MISSING |= {"<NA>", "\\N", "(null)"}
"""Ids that mean that there is none."""
WRAPPED = ("$oid", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid", "$date", "$symbol")
"""How MongoDB's exports wrap values."""


def is_missing(value: Any) -> bool:
    """Whether a value means that there is none: nothing, NaN, or a text such as ``NULL``."""
    return value is None or value != value or (isinstance(value, str) and value.strip(AROUND) in MISSING)


def number_of(value: Any) -> float | None:
    """A finite number as it is, or a text that is one in ASCII digits with a decimal point; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if abs(value) <= LARGEST else None
    text = str(value).strip()
    return float(text) if NUMBER.fullmatch(text) and math.isfinite(float(text)) else None


class NumberParser:
    """Reads the numbers of a column, with a decimal point or, in all of the column, a decimal comma.

    Args:
        place: the file and the column, for errors.
        decimal: "." or ","; None finds out.
    """

    def __init__(self, place: str, decimal: str | None = None) -> None:
        self._place, self.decimal = place, decimal
        self._known: dict[Any, float | None] = {}  # ratings have few different values

    def read(self, row: int, value: Any) -> float | None:
        """The number in ``row`` of the source, counted from 1; None where there is none (see `is_missing`).

        Raises:
            DmrecError: it is not a number, or has another decimal sign than those before.
        """
        if value in self._known:
            return self._known[value]
        number = None
        if not is_missing(value):
            number = self._number(value)
            if number is None:
                raise DmrecError(f"{self._place}: '{value}' in row {row} is not a number{self._hint(value)}")
        if len(self._known) < 10_000:
            self._known[value] = number
        return number

    def _number(self, value: Any) -> float | None:
        text = value.strip() if isinstance(value, str) else value
        if isinstance(text, str) and DECIMAL_COMMA.fullmatch(text) and self.decimal in (None, ","):
            self.decimal = ","
            return float(text.replace(",", "."))
        if isinstance(text, str) and "." in text:
            if self.decimal == ",":
                return None
            self.decimal = "."
        return number_of(text)

    def _hint(self, value: Any) -> str:
        if isinstance(value, str) and (DECIMAL_COMMA.fullmatch(value.strip()) or "." in value) and self.decimal:
            return f" with the decimal sign '{self.decimal}', which the column has; name it: --decimal"
        return ""


def id_text(value: Any, where: str) -> str | None:
    """An id as text, None where there is none: text, a whole number, or what MongoDB's exports wrap.

    Raises:
        DmrecError: the value cannot be an id: a fraction, a list, an object.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise DmrecError(f"{where}: the id {value[:20]!r} is not UTF-8 text") from None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else _whole(str(value), where)
    if isinstance(value, dict) and len(value) == 1:
        ((key, inner),) = value.items()
        if key in WRAPPED and not isinstance(inner, dict | list):
            return id_text(inner, where)
    raise DmrecError(f"{where}: an id must be text or a whole number, got {type(value).__name__} {str(value)[:60]}")


def clean_ids(names: Sequence[str | None], place: str) -> list[str | None]:
    """Distinct ids without spaces around them and, where all of the column have them, without quotes; None for those
    that mean that there is none. Whole numbers written as ``1.0`` or ``1e3`` become ``1`` and ``1000``.

    Raises:
        DmrecError: a number is too large to be exact as a floating-point number, in which it is written.
    """
    cleaned = [None if name is None else name.strip(AROUND) for name in names]
    there = [name for name in cleaned if name]
    if there and all(len(name) > 1 and name[0] == name[-1] == '"' for name in there):
        cleaned = [name if name is None else name[1:-1].replace('""', '"').strip(AROUND) for name in cleaned]
    found = [None if name is None or name in MISSING else name for name in cleaned]
    numbers = [name for name in found if name is not None]
    floats = any("." in name or "e" in name.lower() for name in numbers)
    if floats and all(WHOLE_FLOAT.fullmatch(name) and float(name).is_integer() for name in numbers):
        return [None if name is None else _whole(name, place) for name in found]
    return found


def _whole(text: str, where: str) -> str:
    """The whole number that a text in the notation of floating-point numbers means."""
    if text.lstrip("-").isdecimal():
        return text
    number = float(text)
    if not number.is_integer():
        return text
    if abs(number) >= EXACT:
        raise DmrecError(
            f"{where}: the id {text} is a floating-point number beyond 2^53, which has lost digits; write ids as whole "
            "numbers or as text"
        )
    return str(int(number))

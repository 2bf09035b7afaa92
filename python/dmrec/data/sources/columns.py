"""Finds columns by their usual names, those of Amazon, Yelp, Steam and MovieLens among them; all in lower case."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import DmrecError, did_you_mean

USER = ("user", "user_id", "userid", "uid", "reviewerid", "username")
ITEM = ("item", "item_id", "itemid", "iid", "movieid", "parent_asin", "asin", "business_id", "product_id")
TIME = (
    *("timestamp", "unix_timestamp", "unixreviewtime", "datetime", "date", "time"),
    *("event_time", "created_at"),
)
INTERACTION = {"user": USER, "item": ITEM, "rating": ("rating", "score", "stars", "overall"), "time": TIME}
IGNORED = "none"  # as the name of the column of times: they are not read
REVIEW = ("text", "reviewtext", "review_text", "review")
IDS = {"item": (*ITEM, "id"), "user": (*USER, "id")}
TITLE = ("title", "name", "app_name", "item_title")
TEXT = ("text", "profile")
LISTS = ("tags", "genres", "genre", "categories", "category")
NAMES = ("brand", "store", "developer", "publisher", "city")
DESCRIPTION = ("description", "features", "feature")


def first_of(record: dict[str, Any], names: Sequence[str]) -> Any:
    """The value of the first of these fields that is filled in, else None."""
    return next((value for name in names if (value := record.get(name)) is not None and value != ""), None)


def choose_columns(place: object, names: Sequence[str], wanted: dict[str, str]) -> dict[str, str]:
    """The column of each role ("user", "item", "rating", "time") among ``names``: the wanted one, else a usual one.

    ``place``: the source, for errors.

    Raises:
        DmrecError: a wanted column is missing, or user or item has none.
    """
    chosen = {}
    by_lower = {name.lower(): name for name in names}
    for role, aliases in INTERACTION.items():
        if role == "time" and wanted.get(role) == IGNORED:
            continue
        if role in wanted:
            if wanted[role] not in names:
                raise DmrecError(f"{place} has no column '{wanted[role]}'{did_you_mean(wanted[role], names)}")
            chosen[role] = wanted[role]
        elif found := [by_lower[alias] for alias in aliases if alias in by_lower]:
            chosen[role] = found[0]
    for role in ("user", "item"):
        if role not in chosen:
            raise DmrecError(
                f"{place} has no column for the {role} (columns: {', '.join(names)}); name it: --{role}-column "
                f"({role}_column in Python)"
            )
    return chosen


class ColumnResolver:
    """Finds the value of a role ("user", "item", "rating", "time") in records.

    The first record that has one of the names decides which of them it is, for all records.
    ``source``: where the records come from, for errors. ``column``: a name to look for first.
    """

    def __init__(self, source: object, role: str, names: Sequence[str], column: str | None = None) -> None:
        self.source, self.role = source, role
        self.names = names if column is None else (column.lower(), *names)
        self.field: str | None = None

    @property
    def known(self) -> str:
        """The field, or the names it may have."""
        return self.field or f"one of {', '.join(self.names)}"

    def find(self, record: dict[str, Any]) -> Any:
        """The value in a record, None if it is empty."""
        if self.field is None:
            self.field = next((name for name in self.names if name in record), None)
        value = None if self.field is None else record.get(self.field)
        return None if value == "" else value

    def required(self, number: int, record: dict[str, Any]) -> str:
        """The id in a record, the ``number``-th of the source.

        Raises:
            DmrecError: the record has none.
        """
        identity = self.find(record)
        if identity is not None:
            return str(identity)
        if self.field is not None and first_of(record, self.names) is not None:
            raise DmrecError(
                f"{self.source}, record {number}: has no '{self.field}', by which the file names the {self.role}, but "
                f"another; name a column that all records have: --{self.role}-column"
            )
        raise DmrecError(f"{self.source}, record {number}: has no id of the {self.role} ({self.known})")


def description_of(record: dict[str, Any]) -> dict[str, Any]:
    """Title, tags, description and text of an item or a user, as `entity_of` takes them.

    Tags come from all fields of lists, then from those that name who made or sells it; each appears once.
    """
    tags = [tag for name in LISTS for tag in _tags(record.get(name))]
    tags += [part for name in NAMES for part in _parts(record.get(name))]
    return {
        "title": " ".join(_parts(first_of(record, TITLE))),
        "tags": list(dict.fromkeys(tags)),
        "description": " ".join(part for name in DESCRIPTION for part in _parts(record.get(name))),
        "text": " ".join(_parts(first_of(record, TEXT))),
    }


def _tags(value: Any) -> Iterator[str]:
    """The tags in a list, or in a text that separates them by commas (Yelp) or bars (MovieLens)."""
    yield from filter(None, map(str.strip, re.split("[,|]", value))) if isinstance(value, str) else _parts(value)


def _parts(value: Any) -> Iterator[str]:
    """The texts in a value, a list, or a list of lists as Amazon has for categories."""
    for each in value if isinstance(value, list | tuple) else (value,):
        for part in each if isinstance(each, list | tuple) else (each,):
            if isinstance(part, str | int) and (text := str(part).strip()):
                yield text

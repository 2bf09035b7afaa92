"""What fields are called: in Amazon's, Yelp's and Steam's data sets, and by habit. Names are in lower case."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DmrecError

USER = ("user", "user_id", "userid", "uid", "reviewerid", "username")
ITEM = ("item", "item_id", "itemid", "iid", "movieid", "parent_asin", "asin", "business_id", "product_id")
INTERACTION = {"user": USER, "item": ITEM, "rating": ("rating", "score", "stars", "overall")}
REVIEW = ("text", "reviewtext", "review_text", "review")
IDS = {"item": (*ITEM, "id"), "user": (*USER, "id")}
TITLE = ("title", "name", "app_name", "item_title")
TEXT = ("text", "profile")
LISTS = ("tags", "genres", "genre", "categories", "category")
NAMES = ("brand", "store", "developer", "publisher", "city")
DESCRIPTION = ("description", "features", "feature")


def first_of(record: dict[str, Any], names: Sequence[str]) -> Any:
    """What the first of these fields that is filled in holds, else None."""
    return next((value for name in names if (value := record.get(name)) is not None and value != ""), None)


class ColumnResolver:
    """Finds what records of a file hold for a role ("user", "item", "rating").

    The first record that has any of these fields says which of them holds it, for all.
    """

    def __init__(self, path: Path, role: str, names: Sequence[str], column: str | None = None) -> None:
        self.path, self.role = path, role
        self.names = names if column is None else (column.lower(), *names)
        self.field: str | None = None

    @property
    def known(self) -> str:
        """The field, or those that it may be."""
        return self.field or f"one of {', '.join(self.names)}"

    def find(self, record: dict[str, Any]) -> Any:
        """What a record holds, None where that is empty."""
        if self.field is None:
            self.field = next((name for name in self.names if name in record), None)
        value = None if self.field is None else record.get(self.field)
        return None if value == "" else value

    def required(self, number: int, record: dict[str, Any]) -> str:
        """The id of a record (its ``number`` in the file) that must have one."""
        identity = self.find(record)
        if identity is not None:
            return str(identity)
        if self.field is not None and first_of(record, self.names) is not None:
            raise DmrecError(
                f"{self.path}, record {number}: has no '{self.field}', by which the file names the {self.role}, but "
                f"another; name a column that all records have: --{self.role}-column"
            )
        raise DmrecError(f"{self.path}, record {number}: has no id of the {self.role} ({self.known})")


def description_of(record: dict[str, Any]) -> dict[str, Any]:
    """Title, tags, description and text of an item or a user, as `entity_of` takes them.

    Tags are of all fields of lists, then who made or sells it, each once.
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
    """Of a list, or of a text with commas (Yelp) or bars (MovieLens)."""
    yield from filter(None, map(str.strip, re.split("[,|]", value))) if isinstance(value, str) else _parts(value)


def _parts(value: Any) -> Iterator[str]:
    """The texts of a value, of a list, or of a list of lists as Amazon has for categories."""
    for each in value if isinstance(value, list | tuple) else (value,):
        for part in each if isinstance(each, list | tuple) else (each,):
            if isinstance(part, str | int) and (text := str(part).strip()):
                yield text

"""People who are not in a dataset: a table of what is known of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from ..entities import clean
from .columns import IDS, ColumnResolver, tags_of
from .encoding import open_text
from .records import check_file, iterate_records

LIKES = ("likes", "liked", "items", "like")
PROFILE = ("profile", "text", "description")


@dataclass(frozen=True)
class Visitor:
    """A new user: an id to tell them apart, a text about them, ids or titles of items that they like."""

    id: str
    profile: str
    likes: tuple[str, ...]


def read_visitors(path: Path) -> list[Visitor]:
    """The visitors in a table (see `iterate_records`): ``id`` (default: the number of the row), ``profile``, ``likes``.

    Likes are a list, also one that is written in a text, or a text with commas or bars between them.

    Raises:
        DmrecError: the table cannot be read, or someone has neither a profile nor likes.
    """
    resolver = ColumnResolver(path, "visitor", ("visitor", "visitorid", *IDS["user"]))
    visitors = [_visitor(path, resolver, number, each) for number, each in enumerate(iterate_records(path), start=1)]
    if not visitors:
        raise DmrecError(f"{path} has no rows")
    return visitors


def _visitor(path: Path, resolver: ColumnResolver, number: int, record: dict[str, Any]) -> Visitor:
    profile = next((clean(record[name]) for name in PROFILE if record.get(name)), "")
    likes = tuple(tag for name in LIKES if record.get(name) for tag in tags_of(record[name]))
    if not profile and not likes:
        raise DmrecError(f"{path}, record {number}: has neither a profile nor likes ({', '.join(record)})")
    return Visitor(resolver.identity(number, record) or str(number), profile, likes)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file."""
    check_file(path)
    with open_text(path) as file:
        yield from file

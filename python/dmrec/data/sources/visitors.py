"""People who are not in a dataset: a table of what is known of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError, counted
from ..dataset import Dataset
from ..entities import clean
from .columns import IDS, ColumnResolver, tags_of
from .encoding import open_text
from .records import check_file, iterate_records
from .tables import read_interactions

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
        DmrecError: the table cannot be read.
    """
    resolver = ColumnResolver(path, "visitor", ("visitor", "visitorid", *IDS["user"]))
    visitors = [_visitor(path, resolver, number, each) for number, each in enumerate(iterate_records(path), start=1)]
    if not visitors:
        raise DmrecError(f"{path} has no rows")
    return visitors


def _visitor(path: Path, resolver: ColumnResolver, number: int, record: dict[str, Any]) -> Visitor:
    profile = next((clean(record[name]) for name in PROFILE if record.get(name)), "")
    likes = tuple(tag for name in LIKES if record.get(name) for tag in tags_of(record[name]))
    if number == 1 and not {*PROFILE, *LIKES} & record.keys():
        raise DmrecError(f"{path} has neither a profile nor likes: its columns are {', '.join(record)}")
    return Visitor(resolver.identity(number, record) or str(number), profile, likes)


@dataclass(frozen=True)
class History:
    """Interactions that came after training: the items of each user, oldest first."""

    of_users: dict[str, tuple[str, ...]]  # who were in training
    of_new_users: dict[str, tuple[str, ...]]
    summary: str


def read_history(path: Path, dataset: Dataset) -> History:
    """New interactions from a table as ``dmrec data import`` reads it, with the dataset's own lowest rating.

    Raises:
        DmrecError: the table cannot be read.
    """
    table = read_interactions(path)
    keep = np.ones(len(table), dtype=bool)
    if table.rating is not None:
        keep = table.rating >= float(dataset.provenance.get("min_rating", -np.inf))
    order = np.flatnonzero(keep)
    if table.times is not None:
        order = order[np.argsort(table.times.microseconds[order], kind="stable")]
    users, items = ([str(name) for name in ids.names.tolist()] for ids in (table.user, table.item))
    in_training = {"items": dataset.rows_named("items", items), "users": dataset.rows_named("users", users)}
    found: dict[str, list[str]] = {}
    unknown = 0
    for user, item in zip(table.user.codes[order].tolist(), table.item.codes[order].tolist(), strict=True):
        of_user = found.setdefault(users[user], [])
        if items[item] in in_training["items"]:
            of_user.append(items[item])
        else:
            unknown += 1
    known = {user: tuple(of_user) for user, of_user in found.items() if user in in_training["users"]}
    new = {user: tuple(of_user) for user, of_user in found.items() if user not in in_training["users"]}
    who = f"{counted(len(known), 'user')} in training and {counted(len(new), 'other')}"
    parts = [f"{counted(len(order), 'interaction')} of {who}"]
    parts += [f"{len(keep) - len(order)} below the dataset's lowest rating"] if len(order) < len(keep) else []
    parts += [f"{unknown} of items that are not in {dataset.name}, left out"] if unknown else []
    return History(known, new, ", ".join(parts))


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file."""
    check_file(path)
    with open_text(path) as file:
        yield from file

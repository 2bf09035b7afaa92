"""Reads interactions from delimited tables, JSON and Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from .arrow import interactions_of, read_parquet
from .columns import IGNORED, INTERACTION, REVIEW, ColumnResolver, choose_columns, usual_columns
from .dialect import FOUND_OUT, TableFormat
from .interactions import InteractionBuilder, Interactions
from .records import DELIMITED, JSON_LINES, iterate_records, kind_of, read_rows
from .times import TimeColumn
from .values import NumberParser

TABLES = (*DELIMITED, ".parquet", *JSON_LINES)
SAMPLE = 1000
"""Rows by which a column of ratings with an unusual name is recognised."""


def read_interactions(
    path: Path, columns: dict[str, str] | None = None, given: TableFormat = FOUND_OUT
) -> Interactions:
    """Interactions from a table with a header, from JSON, or from Parquet; the former may be compressed.

    ``columns`` maps ``user``, ``item``, ``rating`` and ``time`` to the table's names; a role without a name is looked
    for under the usual ones (see `choose_columns`). User and item are required; a rating or time "none" is not read.
    ``given``: how a delimited table is written, where that is not to be found out.

    Raises:
        DmrecError: the table cannot be read, lacks a column, or has a row without a time where others have one, or many
            rows without an id.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        table, names = read_parquet(path, columns or {})
        found = interactions_of(table, path, columns or {}, names)
    elif kind in JSON_LINES:
        found = _read_records(path, columns or {}, given)
    else:
        found = _read_delimited(path, columns or {}, given)
    if len(found) == 0 and found.unrated:
        raise DmrecError(f"{path}: no row has a rating; fill in the column of ratings or drop it")
    if len(found) == 0:
        raise DmrecError(f"{path} has {'no records' if kind in JSON_LINES else 'a header and no rows'}")
    return found


def _read_delimited(path: Path, columns: dict[str, str], given: TableFormat) -> Interactions:
    rows = read_rows(path, given)
    names = rows.names
    every = iter(rows)
    sample = list(islice(every, SAMPLE))
    chosen = choose_columns(path, names, columns, list(zip(*sample, strict=True)))
    user, item = (names.index(chosen[role]) for role in ("user", "item"))
    rating, time = (names.index(chosen[role]) if role in chosen else None for role in ("rating", "time"))
    times = None if time is None else TimeColumn(f"{path}, column {names[time]}")
    numbers = NumberParser(f"{path}, column {chosen.get('rating')}", given.decimal)
    found, unrated, read = InteractionBuilder(str(path), times), 0, numbers.read
    for number, row in enumerate(chain(sample, every), start=1):
        if rating is None:
            found.add(row[user], row[item])
        elif (value := read(number, row[rating])) is not None:
            found.add(row[user], row[item], value)
        else:
            unrated += 1
            continue
        if times is not None and time is not None:
            times.add(number, row[time])
    notes: dict[str, Any] = rows.dialect.describe(kind_of(path))
    if rating is not None and numbers.decimal == ",":
        notes["decimal"] = ","
    if rows.repeated_headers:
        notes["repeated_headers"] = rows.repeated_headers
    return found.interactions(chosen, unrated, notes | _unused(names, chosen))


def _unused(names: Iterable[str], chosen: dict[str, str]) -> dict[str, Any]:
    """The columns that have no role, for the notes."""
    unused = [name for name in names if name not in chosen.values()]
    return {"unused_columns": unused} if unused else {}


def _read_records(path: Path, columns: dict[str, str], given: TableFormat) -> Interactions:
    """The first records say which fields are meant. Where the very first has a rating, others without are left out."""
    records = iterate_records(path, given)
    sample = list(islice(records, SAMPLE))
    if not sample:
        raise DmrecError(f"{path} has no records")
    names = list(dict.fromkeys(name for record in sample for name in record))
    wanted = {role: name if name == IGNORED else name.lower() for role, name in columns.items()}
    first = list(sample[0])
    known = first if all(role in wanted or usual_columns(first, role) for role in ("user", "item")) else names
    chosen = choose_columns(path, known, wanted, [_plain_values(sample, name) for name in known])
    user, item, rating, time = (
        ColumnResolver(path, role, () if role in wanted else aliases, field=chosen.get(role))
        for role, aliases in INTERACTION.items()
    )
    rated, timed = (each.field in sample[0] for each in (rating, time))
    times, numbers = TimeColumn(f"{path}, the times"), NumberParser(f"{path}, column {rating.field}", given.decimal)
    found, unrated = InteractionBuilder(str(path), times), 0
    for number, record in enumerate(chain(sample, records), start=1):
        value, moment = rating.find(record), time.find(record)
        for role, there, expected in (("rating", value, rated), ("time", moment, timed)):
            if there is not None and not expected:
                raise DmrecError(f"{path}, record {number}: has a {role}, unlike those before")
        who, what = user.identity(number, record), item.identity(number, record)
        rate = numbers.read(number, value) if rated else None
        if rated and rate is None:
            unrated += 1
            continue
        found.add(who, what, rate)
        if timed:
            times.add(number, moment)
    return found.interactions(chosen, unrated, _unused([name for name in names if name not in REVIEW], chosen))


def _plain_values(sample: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The values of a field that are neither lists nor objects; one of these makes the field no column of numbers."""
    values = [record.get(name) for record in sample]
    return ["" if isinstance(value, list | dict) else value for value in values]

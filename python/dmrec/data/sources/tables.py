"""Reads interactions from CSV, TSV, RecBole's .inter, Parquet and JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import DmrecError
from .arrow import interactions_of, read_parquet
from .columns import IGNORED, INTERACTION, ColumnResolver, choose_columns
from .interactions import InteractionBuilder, Interactions
from .records import JSON_LINES, check_file, iterate_records, kind_of, names_of, read_rows
from .times import TimeColumn

TABLES = (".csv", ".tsv", ".inter", ".parquet", *JSON_LINES)


def read_interactions(path: Path, columns: dict[str, str] | None = None) -> Interactions:
    """Interactions from a table with a header, or from JSON lines; all but Parquet may be compressed (``.csv.gz``).

    ``columns`` maps ``user``, ``item``, ``rating`` and ``time`` to the table's names; a role without a name is looked
    for under the usual ones (`INTERACTION`). User and item are required; the time "none" is not read. RecBole's headers
    ``name:type`` are understood.

    Raises:
        DmrecError: the table cannot be read, lacks a column, or has a row without an id, or without a time where others
            have one.
    """
    check_file(path)
    kind = kind_of(path)
    if kind not in TABLES:
        known = ", ".join(TABLES)
        raise DmrecError(f"{path}: the ending says what a table is; known: {known}, and all but .parquet with .gz")
    read = _read_parquet if kind == ".parquet" else _read_records if kind in JSON_LINES else _read_delimited
    found = read(path, columns or {})
    if len(found) == 0 and found.unrated:
        raise DmrecError(f"{path}: no row has a rating; fill in the column of ratings or drop it")
    if len(found) == 0:
        raise DmrecError(f"{path} has {'no records' if kind in JSON_LINES else 'a header and no rows'}")
    return found


def _read_delimited(path: Path, columns: dict[str, str]) -> Interactions:
    rows = read_rows(path)
    names = names_of(next(rows))
    chosen = choose_columns(path, names, columns)
    user, item = (names.index(chosen[role]) for role in ("user", "item"))
    rating, time = (names.index(chosen[role]) if role in chosen else None for role in ("rating", "time"))
    times = None if time is None else TimeColumn(f"{path}, column {names[time]}")
    found, unrated = InteractionBuilder(str(path), times), 0
    for number, row in enumerate(rows, start=1):
        for column in (user, item):
            if not row[column]:
                raise DmrecError(f"{path}, column {names[column]}: row {number} has no id; fill it in or drop the row")
        if rating is not None and not row[rating].strip():
            unrated += 1
            continue
        found.add(row[user], row[item], None if rating is None else _number(path, names[rating], number, row[rating]))
        if times is not None and time is not None:
            times.add(number, row[time])
    return found.interactions(chosen, unrated)


def _read_records(path: Path, columns: dict[str, str]) -> Interactions:
    """Of the usual names, the first that the first record has. Where that has a rating, others without are left out."""
    names = {role: (columns[role].lower(),) if role in columns else usual for role, usual in INTERACTION.items()}
    names["time"] = () if columns.get("time") == IGNORED else names["time"]
    user, item, rating, time = (ColumnResolver(path, role, names[role]) for role in INTERACTION)
    times, unrated, rated, timed = TimeColumn(f"{path}, the times"), 0, False, False
    found = InteractionBuilder(str(path), times)
    for number, record in enumerate(iterate_records(path), start=1):
        if number == 1:
            lower = {role: name.lower() for role, name in columns.items()}
            timed = "time" in choose_columns(path, list(record), lower)
        value, moment = rating.find(record), time.find(record)
        if number == 1:
            rated = rating.field is not None
        for role, resolver, there in (("rating", rating, rated), ("time", time, timed)):
            if resolver.field is not None and not there:
                raise DmrecError(f"{path}, record {number}: has a {role}, unlike those before")
        who, what = user.required(number, record), item.required(number, record)
        if rated and value is None:
            unrated += 1
            continue
        found.add(who, what, _number(path, "of the rating", number, value) if rated else None)
        if timed:
            times.add(number, moment)
    names_used = {each.role: each.field for each in (user, item, rating, time) if each.field}
    return found.interactions(names_used, unrated)


def _read_parquet(path: Path, columns: dict[str, str]) -> Interactions:
    return interactions_of(read_parquet(path, columns), path, columns)


def _number(path: Path, column: str, row: int, text: Any) -> float:
    try:
        return float(text)
    except (ValueError, TypeError, OverflowError):
        raise DmrecError(f"{path}, column {column}: '{text}' in row {row} is not a number") from None

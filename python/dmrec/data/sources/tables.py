"""Reads raw interactions from CSV, TSV, RecBole's .inter, Parquet and JSON lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError, did_you_mean
from .columns import INTERACTION, ColumnResolver
from .interactions import InteractionBuilder, Interactions, sorted_ids
from .records import JSON_LINES, check_file, import_pyarrow, iterate_records, kind_of, names_of, read_rows

TABLES = (".csv", ".tsv", ".inter", ".parquet", *JSON_LINES)


def read_interactions(path: Path, columns: dict[str, str] | None = None) -> Interactions:
    """Interactions from a table with a header, or from JSON lines; all but Parquet may be compressed (``.csv.gz``).

    ``columns`` maps ``user``, ``item`` and ``rating`` to the table's names; what it leaves out is looked for under the
    usual ones. User and item must be there; others, like a time, are not read. RecBole's ``name:type`` headers are
    understood.
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
    chosen = _choose_columns(path, names, columns)
    user, item = (names.index(chosen[role]) for role in ("user", "item"))
    rating = names.index(chosen["rating"]) if "rating" in chosen else None
    found, unrated = InteractionBuilder(str(path)), 0
    for number, row in enumerate(rows, start=1):
        for column in (user, item):
            if not row[column]:
                raise _no_id(path, names[column], number)
        if rating is not None and not row[rating].strip():
            unrated += 1
            continue
        found.add(row[user], row[item], None if rating is None else _number(path, names[rating], number, row[rating]))
    return replace(found.interactions(chosen), unrated=unrated)


def _read_records(path: Path, columns: dict[str, str]) -> Interactions:
    """Of the usual names, the first that the first record has. Where that has a rating, others without are left out."""
    names = {role: (columns[role].lower(),) if role in columns else usual for role, usual in INTERACTION.items()}
    user, item, rating = (ColumnResolver(path, role, names[role]) for role in INTERACTION)
    found, unrated, rated = InteractionBuilder(str(path)), 0, False
    for number, record in enumerate(iterate_records(path), start=1):
        if number == 1:
            _choose_columns(path, list(record), {role: name.lower() for role, name in columns.items()})
        value = rating.find(record)
        if number == 1:
            rated = rating.field is not None
        if rating.field is not None and not rated:
            raise DmrecError(f"{path}, record {number}: has a rating, unlike those before")
        who, what = user.required(number, record), item.required(number, record)
        if rated and value is None:
            unrated += 1
        else:
            found.add(who, what, _number(path, "of the rating", number, value) if rated else None)
    names_used = {each.role: each.field for each in (user, item, rating) if each.field}
    return replace(found.interactions(names_used), unrated=unrated)


def _number(path: Path, column: str, row: int, text: Any) -> float:
    try:
        return float(text)
    except (ValueError, TypeError, OverflowError):
        raise DmrecError(f"{path}, column {column}: '{text}' in row {row} is no number") from None


def _no_id(path: Path, column: str, row: int) -> DmrecError:
    return DmrecError(f"{path}, column {column}: row {row} has no id; fill it in or drop the row")


def _read_parquet(path: Path, columns: dict[str, str]) -> Interactions:
    pyarrow = import_pyarrow()
    try:
        names = pyarrow.parquet.read_schema(path).names
        chosen = _choose_columns(path, names, columns)
        table = pyarrow.parquet.read_table(path, columns=list(chosen.values()))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DmrecError(f"{path} is no Parquet file ({error})") from None
    rows = len(table)
    if "rating" in chosen:
        table = table.filter(table[chosen["rating"]].is_valid())
    ids = {}
    for role in ("user", "item"):
        column = table[chosen[role]].combine_chunks().dictionary_encode()
        codes = column.indices.to_numpy(zero_copy_only=False)
        distinct: list[Any] = column.dictionary.to_pylist()
        missing = np.isnan(codes) if column.null_count else np.array([name in ("", None) for name in distinct])[codes]
        if missing.any():
            raise _no_id(path, chosen[role], int(missing.argmax()) + 1)
        ids[role] = sorted_ids(list(map(str, distinct)), codes, str(path))
    return Interactions(
        ids["user"], ids["item"], _ratings(path, table, chosen.get("rating")), chosen, rows - len(table)
    )


def _ratings(path: Path, table: Any, name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    try:
        return np.asarray(table[name].cast("float64").to_numpy(), dtype=np.float64)
    except (ValueError, TypeError, NotImplementedError) as error:  # pyarrow's own are such
        raise DmrecError(f"{path}, column {name}: not all values are numbers ({error})") from None


def _choose_columns(path: Path, names: list[str], wanted: dict[str, str]) -> dict[str, str]:
    chosen = {}
    by_lower = {name.lower(): name for name in names}
    for role, aliases in INTERACTION.items():
        if role in wanted:
            if wanted[role] not in names:
                raise DmrecError(f"{path} has no column '{wanted[role]}'{did_you_mean(wanted[role], names)}")
            chosen[role] = wanted[role]
        elif found := [by_lower[alias] for alias in aliases if alias in by_lower]:
            chosen[role] = found[0]
    for role in ("user", "item"):
        if role not in chosen:
            raise DmrecError(
                f"{path} has no column for the {role} (columns: {', '.join(names)}); name it: --{role}-column"
            )
    return chosen

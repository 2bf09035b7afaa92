"""Reads raw interactions from CSV, TSV and Parquet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DmrecError, did_you_mean
from .split import Interactions

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
ALIASES = {
    "user": ("user", "user_id", "userid", "uid"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "asin"),
    "rating": ("rating", "score", "stars"),
}


def read_interactions(path: Path, columns: dict[str, str] | None = None) -> Interactions:
    """Interactions from a table with a header.

    ``columns`` maps ``user``, ``item`` and ``rating`` to the table's names; what it leaves out is looked for under the
    usual ones. User and item must be there; others, like a time, are not read. RecBole's ``name:type`` headers are
    understood.
    """
    if not path.exists():
        raise DmrecError(f"{path} does not exist")
    columns = columns or {}
    if path.suffix == ".parquet":
        table = _read_parquet(path, columns)
    elif path.suffix in DELIMITERS:
        table = _read_delimited(path, DELIMITERS[path.suffix])
    else:
        known = ", ".join([*DELIMITERS, ".parquet"])
        raise DmrecError(f"{path}: the ending says what a table is; known: {known}")
    chosen = _choose_columns(path, list(table), columns)
    return Interactions(
        user=_ids(path, chosen["user"], table[chosen["user"]]),
        item=_ids(path, chosen["item"], table[chosen["item"]]),
        rating=_numbers(path, chosen["rating"], table[chosen["rating"]]) if "rating" in chosen else None,
    )


def _read_delimited(path: Path, delimiter: str) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader, None)
            if header is None:
                raise DmrecError(f"{path} is empty; the first line must name the columns")
            names = [name.split(":")[0].strip() for name in header]
            rows = []
            for row in reader:
                if len(row) == len(names):
                    rows.append(row)
                elif row:
                    raise DmrecError(
                        f"{path}, line {reader.line_num}: {len(row)} fields, but the header has {len(names)}"
                    )
    except UnicodeDecodeError as error:
        raise DmrecError(f"{path} is not UTF-8 text ({error})") from None
    except csv.Error as error:
        raise DmrecError(f"{path}, line {reader.line_num}: {error}") from None
    values = list(map(list, zip(*rows, strict=True))) if rows else [[] for _ in names]
    return dict(zip(names, values, strict=True))


def _read_parquet(path: Path, columns: dict[str, str]) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DmrecError("reading Parquet needs pyarrow: pip install 'dmrec[parquet]'") from None
    try:
        names = pyarrow.parquet.read_schema(path).names
        chosen = list(_choose_columns(path, names, columns).values())
        table: dict[str, list[Any]] = pyarrow.parquet.read_table(path, columns=chosen).to_pydict()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DmrecError(f"{path} is no Parquet file ({error})") from None
    return table


def _choose_columns(path: Path, names: list[str], wanted: dict[str, str]) -> dict[str, str]:
    chosen = {}
    by_lower = {name.lower(): name for name in names}
    for role, aliases in ALIASES.items():
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


def _ids(path: Path, name: str, values: list[Any]) -> np.ndarray:
    """Ids as strings; whole numbers sort as numbers, so that rows keep a natural order."""
    if None in values or "" in values:
        row = next(i for i, value in enumerate(values, start=1) if value in (None, ""))
        raise DmrecError(f"{path}, column {name}: row {row} has no id; fill it in or drop the row")
    texts = np.array([str(value) for value in values], dtype=str)
    try:
        numbers = texts.astype(np.int64)
    except (ValueError, OverflowError):
        return texts
    return numbers if (numbers.astype(str) == texts).all() else texts


def _numbers(path: Path, name: str, values: list[Any]) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DmrecError(f"{path}, column {name}: not all values are numbers ({error})") from None

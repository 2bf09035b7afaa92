"""Reads raw interactions from CSV, TSV, RecBole's .inter and Parquet."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..errors import DmrecError, did_you_mean
from .interactions import Collector, Interactions, sorted_ids

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
TABLES = (".csv", ".tsv", ".inter", ".parquet")
ALIASES = {
    "user": ("user", "user_id", "userid", "uid"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "asin"),
    "rating": ("rating", "score", "stars"),
}


def read_interactions(path: Path, columns: dict[str, str] | None = None) -> Interactions:
    """Interactions from a table with a header; delimited ones may be compressed (``.csv.gz``).

    ``columns`` maps ``user``, ``item`` and ``rating`` to the table's names; what it leaves out is looked for under the
    usual ones. User and item must be there; others, like a time, are not read. RecBole's ``name:type`` headers are
    understood.
    """
    if not path.is_file():
        raise DmrecError(f"{path} is a folder; a table is expected" if path.exists() else f"{path} does not exist")
    kind = kind_of(path)
    if kind not in TABLES:
        known = ", ".join(TABLES)
        raise DmrecError(f"{path}: the ending says what a table is; known: {known}, and the first three with .gz")
    found = _read_parquet(path, columns or {}) if kind == ".parquet" else _read_delimited(path, columns or {})
    if len(found) == 0:
        raise DmrecError(f"{path} has a header and no rows")
    return found


def kind_of(path: Path) -> str:
    """The ending, without that of compression."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def read_rows(path: Path) -> Iterator[list[str]]:
    """The header of a delimited table, with RecBole's types, then its rows; empty lines are passed over."""
    delimiter = DELIMITERS[kind_of(path)]
    number = 0
    try:
        with open_text(path) as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader, None)
            if header is None:
                raise DmrecError(f"{path} is empty; the first line must name the columns")
            yield header
            number = reader.line_num
            for row in reader:
                number = reader.line_num
                if len(row) == len(header):
                    yield row
                elif row:
                    raise DmrecError(f"{path}, line {number}: {len(row)} fields, but the header has {len(header)}")
    except UnicodeDecodeError as error:
        raise DmrecError(f"{path} is not UTF-8 text ({error})") from None
    except (csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DmrecError(f"{path}, line {number + 1}: {error}") from None


def open_text(path: Path, encoding: str = "utf-8-sig") -> TextIO:
    """A text file, decompressed where it ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding=encoding)
    return path.open(newline="", encoding=encoding)


def _read_delimited(path: Path, columns: dict[str, str]) -> Interactions:
    rows = read_rows(path)
    names = [name.split(":")[0].strip() for name in next(rows)]
    chosen = _choose_columns(path, names, columns)
    user, item = (names.index(chosen[role]) for role in ("user", "item"))
    rating = names.index(chosen["rating"]) if "rating" in chosen else None
    found = Collector()
    for number, row in enumerate(rows, start=1):
        for column in (user, item):
            if not row[column]:
                raise _no_id(path, names[column], number)
        found.add(row[user], row[item], None if rating is None else _number(path, names[rating], number, row[rating]))
    return found.interactions()


def _number(path: Path, column: str, row: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DmrecError(f"{path}, column {column}: '{text}' in row {row} is no number") from None


def _no_id(path: Path, column: str, row: int) -> DmrecError:
    return DmrecError(f"{path}, column {column}: row {row} has no id; fill it in or drop the row")


def _read_parquet(path: Path, columns: dict[str, str]) -> Interactions:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DmrecError("reading Parquet needs pyarrow: pip install 'dmrec[parquet]'") from None
    try:
        names = pyarrow.parquet.read_schema(path).names
        chosen = _choose_columns(path, names, columns)
        table = pyarrow.parquet.read_table(path, columns=list(chosen.values()))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DmrecError(f"{path} is no Parquet file ({error})") from None
    ids = {}
    for role in ("user", "item"):
        column = table[chosen[role]].combine_chunks().dictionary_encode()
        codes = column.indices.to_numpy(zero_copy_only=False)
        distinct: list[Any] = column.dictionary.to_pylist()
        missing = np.isnan(codes) if column.null_count else np.array([name in ("", None) for name in distinct])[codes]
        if missing.any():
            raise _no_id(path, chosen[role], int(missing.argmax()) + 1)
        ids[role] = sorted_ids(list(map(str, distinct)), codes)
    return Interactions(ids["user"], ids["item"], _ratings(path, table, chosen.get("rating")))


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

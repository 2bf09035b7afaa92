"""Reads files of records: JSON lines, lines of Python literals, delimited tables with a header, Parquet."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ...errors import DmrecError
from .arrow import import_pyarrow

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")
LONGEST_LITERAL = 1 << 20  # characters
LONGEST_FIELD = 1 << 24
JSON = json.JSONDecoder(parse_constant=lambda _: None)  # NaN, as pandas writes what is missing
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
csv.field_size_limit(LONGEST_FIELD)


def iterate_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file one by one, names of fields in lower case; the ending says what it is."""
    check_file(path)
    kind = kind_of(path)
    if kind in JSON_LINES:
        records = _json_lines(path)
    elif kind in DELIMITERS:
        records = _delimited(path)
    elif kind == ".parquet":
        records = _parquet(path)
    else:
        known = ", ".join((*JSON_LINES, *DELIMITERS))
        raise DmrecError(f"{path}: the ending says what a file of records is; known: {known} (or .gz), .parquet")
    for record in records:
        yield {str(name).lower(): value for name, value in record.items()}


def check_file(path: Path) -> None:
    """It is there and no folder."""
    if not path.is_file():
        raise DmrecError(f"{path} is a folder; a table is expected" if path.exists() else f"{path} does not exist")


def kind_of(path: Path) -> str:
    """The ending, without that of compression."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def open_text(path: Path, encoding: str = "utf-8-sig") -> TextIO:
    """A text file, decompressed where it ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding=encoding)
    return path.open(newline="", encoding=encoding)


def read_rows(path: Path) -> Iterator[list[str]]:
    """The header of a delimited table, with RecBole's types, then its rows; empty lines are passed over.

    Quotes mean something in .csv alone: between tabs they are characters like others.
    """
    delimiter = DELIMITERS[kind_of(path)]
    number = 0
    try:
        with open_text(path) as file:
            quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
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
    except (csv.Error, *DAMAGED) as error:
        unclosed = "a quote is opened and never closed" if "unexpected end of data" in str(error) else error
        raise DmrecError(f"{path}, line {number + 1}: {unclosed}") from None


def names_of(header: list[str]) -> list[str]:
    """The columns of a header, without RecBole's types (``name:type``)."""
    return [name.split(":")[0].strip() for name in header]


def _delimited(path: Path) -> Iterator[dict[str, Any]]:
    rows = read_rows(path)
    names = names_of(next(rows))
    return (dict(zip(names, row, strict=True)) for row in rows)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _record(path, number, line)
    except UnicodeDecodeError as error:
        raise DmrecError(f"{path} is not UTF-8 text ({error})") from None
    except DAMAGED as error:
        raise DmrecError(f"{path}, line {number + 1}: {error}") from None


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    if number == 1 and line.startswith("["):
        raise DmrecError(f"{path} is one JSON array; one object a line is expected: jq -c '.[]' {path.name} > t.jsonl")
    try:
        record = JSON.decode(line)
    except (ValueError, RecursionError):
        record = _literal(path, number, line.strip())
    if not isinstance(record, dict):
        raise DmrecError(f"{path}, line {number}: must be one record, a JSON object, got {type(record).__name__}")
    return record


def _literal(path: Path, number: int, line: str) -> Any:
    """The value of a Python literal, which some older dumps have for lines; nothing in it runs."""
    try:
        if len(line) > LONGEST_LITERAL:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes
            return ast.literal_eval(line)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise DmrecError(f"{path}, line {number}: neither JSON nor a Python literal: {line[:60]!r}") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    pyarrow = import_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=8192):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DmrecError(f"{path} is not a Parquet file ({error})") from None

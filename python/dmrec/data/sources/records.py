"""Reads files of records: JSON in its usual forms, lines of Python literals, delimited tables, Parquet."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from ...errors import DmrecError
from .arrow import import_pyarrow
from .dialect import BY_ENDING, FOUND_OUT, RowReader, TableFormat, sniff
from .encoding import DAMAGED, open_bytes, open_text

JSON_LINES = (".jsonl", ".json", ".ndjson")
DELIMITED = (*BY_ENDING, ".txt", ".dat", ".data")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
LONGEST_LITERAL = 1 << 20  # characters
JSON = json.JSONDecoder(parse_constant=lambda _: None)  # NaN, as pandas writes what is missing
NAMES_IN_LITERALS = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|\b(\d+)L\b|\b(?:nan|NaN|null|inf)\b""")
"""Texts in quotes, long integers of Python 2, and names of what is missing."""


def iterate_records(path: Path, given: TableFormat = FOUND_OUT) -> Iterator[dict[str, Any]]:
    """The records of a file one by one, names of fields in lower case; the ending says what it is."""
    kind = kind_of(path)
    if kind in JSON_LINES:
        records = _json(path, given.encoding)
    elif kind == ".parquet":
        records = _parquet(path)
    else:
        records = _delimited(path, kind, given)
    for record in records:
        yield {str(name).lower(): value for name, value in record.items()}


def check_file(path: Path) -> None:
    """Raises an error unless it is there and not a folder."""
    if not path.is_file():
        raise DmrecError(f"{path} is a folder; a table is expected" if path.exists() else f"{path} does not exist")


def kind_of(path: Path) -> str:
    """What a table is: its ending in lower case without that of compression, JSON where other text begins like it.

    Raises:
        DmrecError: the ending is not that of a table, or the file does not exist.
    """
    check_file(path)
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    kind = Path(name).suffix
    if kind in (*JSON_LINES, ".parquet", *BY_ENDING):
        return kind
    if kind not in (*DELIMITED, ""):
        known = ", ".join((*JSON_LINES, *DELIMITED, ".parquet"))
        raise DmrecError(f"{path}: the ending says what a table is; known: {known}, also with {', '.join(PACKED)}")
    stream, _ = open_bytes(path)
    with stream:
        return ".jsonl" if stream.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[") else ".txt"


def read_rows(path: Path, given: TableFormat = FOUND_OUT) -> RowReader:
    """The rows of a delimited table, and the names of its columns.

    Quotes enclose fields, but not between tabs in .tsv and RecBole's files, where they are characters like others.
    """
    return RowReader(path, sniff(path, kind_of(path), given))


def _delimited(path: Path, kind: str, given: TableFormat) -> Iterator[dict[str, Any]]:
    rows = RowReader(path, sniff(path, kind, given))
    return (dict(zip(rows.names, row, strict=True)) for row in rows)


def _json(path: Path, encoding: str | None) -> Iterator[dict[str, Any]]:
    """One object a line; or an array of objects, objects over several lines, or an object of columns."""
    number = 0
    try:
        with open_text(path, encoding) as file:
            first = ""
            for first in file:
                number += 1
                if first.strip("\ufeff \t\r\n"):
                    break
            start = first.lstrip("\ufeff \t")
            if not start.strip():
                return
            if start.startswith("[") or (start.startswith("{") and not start.rstrip().endswith("}")):
                yield from _whole(path, start + file.read(), number)
                return
            record = _record(path, number, start)
            following = _next_line(file)
            if not following and (columns := _columnar(record)) is not None:
                yield from columns
                return
            yield record
            for line in chain(following, file):
                number += 1
                if line.strip():
                    yield _record(path, number, line)
    except UnicodeDecodeError as error:
        raise DmrecError(f"{path} is not text in its encoding ({error}); name it: --encoding") from None
    except DAMAGED as error:
        raise DmrecError(f"{path}, line {number + 1}: {error}") from None


def _next_line(file: IO[str]) -> list[str]:
    """The lines up to the next one that is not empty; none if there is none."""
    lines = []
    for line in file:
        lines.append(line)
        if line.strip():
            return lines
    return []


def _whole(path: Path, text: str, number: int) -> Iterator[dict[str, Any]]:
    """The records of JSON that goes over several lines."""
    values, position = [], 0
    try:
        while position < len(text):
            value, position = JSON.raw_decode(text, position)
            values.append(value)
            while position < len(text) and (text[position].isspace() or text[position] == ","):
                position += 1
    except (ValueError, RecursionError) as error:
        if not values and not text.startswith("["):  # a line that is not JSON: its own error says more
            yield _record(path, number, text.split("\n", 1)[0])
        where = getattr(error, "lineno", 1) + number - 1
        raise DmrecError(f"{path}, line {where}: not JSON ({getattr(error, 'msg', 'nested too deeply')})") from None
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    elif len(values) == 1 and isinstance(values[0], dict) and (columns := _columnar(values[0])) is not None:
        yield from columns
        return
    for entry, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise DmrecError(f"{path}, record {entry}: must be a JSON object, got {type(value).__name__}")
        yield value


def _columnar(record: dict[str, Any]) -> Iterator[dict[str, Any]] | None:
    """The records of an object of columns (``{"user": {"0": ..}, ..}`` or ``{"user": [..], ..}``), or of the one list
    of objects in it; None for anything else.
    """
    lists = [value for value in record.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1 and all(isinstance(each, dict) for each in lists[0]):
        return iter(lists[0])
    values: list[Sequence[Any] | dict[str, Any]] = list(record.values())
    if len(values) < 2 or not all(isinstance(each, list | dict) and len(each) > 1 for each in values):
        return None
    if len({(type(each), len(each)) for each in values}) > 1:
        return None
    columns = [list(each.values()) if isinstance(each, dict) else each for each in values]
    return (dict(zip(record, row, strict=True)) for row in zip(*columns, strict=True))


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
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
            try:
                return ast.literal_eval(line)
            except (ValueError, SyntaxError):
                return ast.literal_eval(NAMES_IN_LITERALS.sub(_in_python, line))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise DmrecError(f"{path}, line {number}: neither JSON nor a Python literal: {line[:60]!r}") from None


def _in_python(found: re.Match[str]) -> str:
    return found[1] or found[2] or "None"


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    pyarrow = import_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=8192):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DmrecError(f"{path} is not a Parquet file ({error})") from None

"""Rows written to .parquet, .jsonl or .csv files, which are either whole or not there."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import DmrecError

Row = dict[str, Any]
Columns = dict[str, type]  # names and types: str, int or float


def check_ending(path: Path) -> None:
    """Before the work is done that would be lost."""
    if path.suffix.lower() not in WRITERS:
        raise DmrecError(f"{path}: the ending says what to write; known: {', '.join(WRITERS)}")


def write_rows(path: Path, rows: Iterable[Row], columns: Columns) -> None:
    """Writes rows as they come."""
    check_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        WRITERS[path.suffix.lower()](temporary, rows, columns)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_jsonl(path: Path, rows: Iterable[Row], columns: Columns) -> None:
    del columns  # each line names its own
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_csv(path: Path, rows: Iterable[Row], columns: Columns) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Iterable[Row], columns: Columns) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DmrecError("writing Parquet needs pyarrow: pip install 'dmrec[parquet]', or write .jsonl") from None
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema({name: types[kind] for name, kind in columns.items()})
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == 100_000:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))


WRITERS: dict[str, Callable[[Path, Iterable[Row], Columns], None]] = {
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
}

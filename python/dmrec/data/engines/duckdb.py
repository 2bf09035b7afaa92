"""DuckDB, embedded: uses the cores of one machine, and its disk where memory does not suffice."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from .engine import JSON_LINES, PARQUET, SourceFiles

BATCH = 1_000_000
"""Rows of a record batch."""
MEMORY_OF_THREAD = 128_000_000
"""Bytes; with less, DuckDB fails rather than using its disk."""
PLACE = re.compile(r"CSV Error on Line: (\d+)")
FILE = re.compile(r"^\s*file ?= ?(.+?)\s*$", re.MULTILINE)


class DuckDb:
    """The `Engine` of DuckDB.

    Args:
        scratch: an empty folder for its tables and for what does not fit into memory.
        memory: bytes that it may use.
    """

    name = "duckdb"
    compressions: tuple[str, ...] = ("gzip", "zstd")

    def __init__(self, scratch: Path, memory: int) -> None:
        try:
            import duckdb
        except ImportError:
            raise DmrecError("importing large sources needs DuckDB: pip install 'dmrec[large]'") from None
        self._error: type[Exception] = duckdb.Error
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        config: dict[str, Any] = {
            "memory_limit": f"{memory // 1000}KB",
            "threads": max(min(cores, memory // MEMORY_OF_THREAD), 1),
            "temp_directory": str(scratch / "spilled"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        self._connection = duckdb.connect(str(scratch / "tables.duckdb"), config=config)
        self._run("CREATE MACRO regexp_like(value, pattern) AS regexp_matches(value, pattern)")

    def relation(self, source: SourceFiles) -> tuple[str, str]:
        """A table function, and its column of names of files."""
        files = f"[{', '.join(map(_file, source.files))}]"
        if source.kind == PARQUET:
            return f"read_parquet({files}, filename = true)", "filename"
        columns = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in source.names)
        options = f"columns = {{{columns}}}, filename = true, compression = {_literal(source.compression or 'none')}"
        if source.kind == JSON_LINES:
            return f"read_json({files}, format = 'newline_delimited', {options})", "filename"
        quote = "'\"'" if source.quoted else "''"
        options += f", auto_detect = false, delim = {_literal(source.delimiter)}, header = {source.header}"
        return f"read_csv({files}, {options}, quote = {quote}, escape = {quote}, strict_mode = true)", "filename"

    def quote(self, name: str) -> str:
        """In double quotes."""
        return '"' + name.replace('"', '""') + '"'

    def view(self, name: str, query: str) -> None:
        """A view."""
        self._run(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def table(self, name: str, query: str) -> None:
        """A table in the file of this connection."""
        self._run(f"CREATE OR REPLACE TABLE {name} AS {query}")

    def read_parquet(self, name: str, path: Path) -> None:
        """A view of the file."""
        self.view(name, f"SELECT * FROM read_parquet({_file(path)})")

    def drop(self, *names: str) -> None:
        """Tables; their blocks are used again."""
        for name in names:
            self._run(f"DROP TABLE {name}")

    def row(self, query: str) -> tuple[Any, ...] | None:
        """The first row."""
        found = self._run(query).fetchall()
        return tuple(found[0]) if found else None

    def batches(self, query: str) -> Iterator[Any]:
        """Streamed: memory holds what the order needs, not the result."""
        # not of a result of execute(), which is copied first, and then without its order
        with self._clear_errors():
            yield from self._connection.sql(query).to_arrow_reader(BATCH)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _run(self, statement: str) -> Any:
        with self._clear_errors():
            return self._connection.execute(statement)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise DmrecError(_in_one_line(str(error))) from error


def _in_one_line(message: str) -> str:
    """What is wrong, with file and line where DuckDB names them."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    file, place = FILE.search(message), PLACE.search(message)
    if file and place:
        reasons = [line for line in lines[1:] if not line.startswith(("Original Line", "Possible", "*", "file"))]
        return f"{file[1]}, line {place[1]}: {reasons[0] if reasons else lines[0]}"
    if "Out of Memory" in message:
        return f"DuckDB needs more memory: --memory ({lines[0]})"
    return f"DuckDB: {lines[0]}"


def _file(path: Path) -> str:
    """A file by its name, in which DuckDB would see a pattern."""
    return _literal(glob.escape(str(path)))


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

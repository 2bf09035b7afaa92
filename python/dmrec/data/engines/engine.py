"""What an engine must be able to do, and the tables that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PARQUET, DELIMITED, JSON_LINES = "parquet", "delimited", "json lines"


@dataclass(frozen=True)
class SourceFiles:
    """Files of one table of interactions.

    Fields:
        files: at least one.
        kind: `PARQUET`, `DELIMITED` or `JSON_LINES`.
        names: the names of all columns, in their order; of JSON those that are read.
        delimiter, quoted, header: how delimited files are written.
        compression: "gzip" and the like, or None.
    """

    files: Sequence[Path]
    kind: str
    names: Sequence[str]
    delimiter: str = ","
    quoted: bool = True
    header: bool = True
    compression: str | None = None


class Engine(Protocol):
    """Runs the statements of `statements` on tables that lie in a scratch folder and may be larger than memory."""

    name: str
    compressions: tuple[str, ...]
    """Of text files that it reads."""

    def relation(self, source: SourceFiles) -> tuple[str, str]:
        """What to select from to read these files, and the expression for the name of a row's file."""

    def quote(self, name: str) -> str:
        """A column's name in a statement."""

    def view(self, name: str, query: str) -> None:
        """Gives a query a name; it runs where it is used."""

    def table(self, name: str, query: str) -> None:
        """Runs a query and keeps its result under a name."""

    def read_parquet(self, name: str, path: Path) -> None:
        """Gives a Parquet file a name."""

    def drop(self, *names: str) -> None:
        """Forgets results, so that their room on disk is free."""

    def row(self, query: str) -> tuple[Any, ...] | None:
        """The first row of a result, None if it has none."""

    def batches(self, query: str) -> Iterator[Any]:
        """The rows of a result in their order, as record batches of Arrow."""

    def close(self) -> None:
        """Ends the engine; it removes what it wrote outside of the scratch folder."""

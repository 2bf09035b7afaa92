"""Finds out how a delimited table is written: delimiter, quotes, where the header is."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ...errors import DmrecError
from .encoding import DAMAGED, encoding_of, layers_of, open_text

BY_ENDING = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
DELIMITERS = (",", "\t", ";", "|", "::")
NAMES = {"tab": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|", "\\t": "\t"}
"""Words for delimiters that are hard to type."""
SAMPLE = 100  # lines
LONGEST_FIELD = 1 << 24
END_OF_FILE = "\x1a"  # Ctrl-Z, as DOS ended files
csv.field_size_limit(LONGEST_FIELD)


@dataclass(frozen=True)
class TableFormat:
    """What a user says of how tables are written; what is None is found out.

    Fields:
        delimiter: between fields; "tab" and other words of `NAMES` are understood.
        decimal: "." or ",", in numbers.
        encoding: a name that Python knows, such as "utf-8" or "windows-1252".
        header: whether the first line names the columns.
        columns: the names of the columns, in their order, in place of those of the header.
    """

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool = True
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise DmrecError(f"--decimal must be . or , got '{self.decimal}'")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError:
                raise DmrecError(
                    f"--encoding: '{self.encoding}' is not known; utf-8, utf-16, windows-1252 .."
                ) from None
        if not self.header and not self.columns:
            raise DmrecError("--no-header needs the names of the columns: --columns user,item,rating,time")


FOUND_OUT = TableFormat()


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Fields:
        delimiter: between fields.
        quoted: whether quotes enclose fields.
        encoding: of the text.
        compression: the outermost first.
        skipped: number of lines before the header, or before the first row if there is none.
        header: the names of the columns, as they are written.
        in_file: whether the header is a line of the file.
    """

    delimiter: str
    quoted: bool
    encoding: str
    compression: tuple[str, ...]
    skipped: int
    header: tuple[str, ...]
    in_file: bool = True

    def describe(self, ending: str) -> dict[str, str]:
        """What differs from a plain file in UTF-8 with this ending, by name."""
        found = {}
        if self.delimiter != BY_ENDING.get(ending):
            found["delimiter"] = {"\t": "tab"}.get(self.delimiter, self.delimiter)
        if self.encoding not in ("utf-8", "utf-8-sig", "ascii"):
            found["encoding"] = {"cp1252": "windows-1252"}.get(self.encoding, self.encoding)
        if self.compression:
            found["compression"] = ", ".join(self.compression)
        if not self.in_file:
            found["header"] = "none"
        if self.skipped:
            found["lines before the header"] = str(self.skipped)
        return found


def sniff(path: Path, ending: str, given: TableFormat = FOUND_OUT) -> Dialect:
    """How a table with this ending (".csv" ..) is written.

    The delimiter is the given one; that of a line ``sep=;``; else the one that divides the first lines into the most
    fields, as many in each, and of several that of the ending. Empty lines and lines of remarks (``#``) before
    the header are skipped.

    Raises:
        DmrecError: the file is empty or not text, or nothing divides its lines.
    """
    status = path.stat()
    return _sniff(path, ending, given, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sniff(path: Path, ending: str, given: TableFormat, _size: int, _modified: int) -> Dialect:
    encoding = given.encoding or encoding_of(path)
    delimiter = None if given.delimiter is None else NAMES.get(given.delimiter, given.delimiter)
    try:
        with open_text(path, encoding) as file:
            lines = list(islice(without_end_mark(file), SAMPLE))
    except UnicodeDecodeError as error:
        raise DmrecError(f"{path} is not text in {encoding} ({error})") from None
    except DAMAGED as error:
        raise DmrecError(f"{path} is damaged: {error}") from None
    skipped = 0
    while skipped < len(lines) and _is_before_header(lines, skipped):
        if (remark := lines[skipped].strip("\ufeff\"' \t\r\n")).lower().startswith("sep=") and delimiter is None:
            delimiter = remark[4:] or "\t"
        skipped += 1
    lines = lines[skipped:]
    if not lines:
        raise DmrecError(f"{path} is empty; the first line must name the columns")
    if delimiter is None:
        delimiter = _delimiter_of(lines, BY_ENDING.get(ending))
    quoted = ending not in (".tsv", ".inter", ".item", ".user") or delimiter != "\t"
    try:
        first = [name.strip().removeprefix("\ufeff") for name in next(fields_of(lines, delimiter, quoted), [])]
    except csv.Error as error:
        raise DmrecError(f"{path}, line {skipped + 1}: {error}") from None
    if first and first[0].startswith("#"):
        first[0] = first[0].lstrip("# ")
    if given.columns and len(given.columns) != len(first):
        raise DmrecError(
            f"--columns names {len(given.columns)} columns, but the first line of {path} has {len(first)} fields"
        )
    header = given.columns or tuple(first)
    layers = tuple(layers_of(path))
    return Dialect(delimiter, quoted, encoding, layers, skipped, header, given.header)


def _is_before_header(lines: Sequence[str], number: int) -> bool:
    """Whether a line is empty, ``sep=;``, or a remark that is not itself the header."""
    line = lines[number].strip("\ufeff \t\r\n")
    if not line or line.strip("\"'").lower().startswith("sep="):
        return True
    if not line.startswith("#") or number + 1 == len(lines):
        return False
    following = lines[number + 1]
    counts = [(line.count(each), following.count(each)) for each in DELIMITERS]
    divides_both_alike = any(mine == other > 0 for mine, other in counts)
    return not divides_both_alike or following.lstrip().startswith("#")


def _delimiter_of(lines: Sequence[str], usual: str | None) -> str:
    """The delimiter that divides the first lines into the most fields, as many in each; of several the usual one."""
    complete = [line for line in (lines[:-1] if len(lines) == SAMPLE else lines) if line.strip()]
    best, most = None, 1
    for delimiter in dict.fromkeys((usual or ",", *DELIMITERS)):
        try:
            counts = {len(row) for row in fields_of(complete, delimiter, quoted=True) if any(map(str.strip, row))}
        except csv.Error:
            continue
        if len(counts) == 1 and (count := counts.pop()) > most:
            best, most = delimiter, count
    if best is None:  # rows of different lengths, of which the reader says which
        return next((each for each in (usual, *DELIMITERS) if each and each in lines[0]), usual or ",")
    return best


class Fields:
    """The fields of lines that a delimiter of several characters divides; like `csv.reader`."""

    def __init__(self, lines: Iterable[str], delimiter: str) -> None:
        self._lines, self._delimiter, self.line_num = iter(lines), delimiter, 0

    def __iter__(self) -> Fields:
        return self

    def __next__(self) -> list[str]:
        line = next(self._lines)
        self.line_num += 1
        return line.rstrip("\r\n").split(self._delimiter)


def fields_of(lines: Iterable[str], delimiter: str, quoted: bool) -> Any:
    """The fields of each line, and ``line_num``; in quotes a field may go over several lines."""
    if len(delimiter) > 1:
        return Fields(lines, delimiter)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)


def without_end_mark(file: IO[str]) -> Iterator[str]:
    """The lines of a file up to the mark with which DOS ended files, if there is one."""
    for line in file:
        if END_OF_FILE in line:
            if line.strip(f"{END_OF_FILE}\r\n\0"):
                yield line.partition(END_OF_FILE)[0]
            return
        yield line


@dataclass
class RowReader:
    """The rows of a delimited table after its header, one list of fields each; empty lines are skipped.

    Attributes:
        dialect: how it is written.
        names: the names of the columns, without RecBole's types (``name:type``).
        repeated_headers: the number of headers that were met again, and skipped, up to the last row.
    """

    path: Path
    dialect: Dialect
    repeated_headers: int = 0

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [name.split(":")[0].strip() for name in self.dialect.header]

    def __iter__(self) -> Iterator[list[str]]:
        dialect, header = self.dialect, list(self.dialect.header)
        width, first, line = len(header), header[0], dialect.skipped
        try:
            with open_text(self.path, dialect.encoding) as file:
                lines = without_end_mark(file)
                for _ in range(dialect.skipped):
                    next(lines)
                rows = fields_of(lines, dialect.delimiter, dialect.quoted)
                if dialect.in_file:
                    next(rows)
                line = dialect.skipped + rows.line_num
                for row in rows:
                    if len(row) == width:
                        if first in row[0] and dialect.in_file and _same(row, header):
                            self.repeated_headers += 1
                        else:
                            yield row
                    elif any(map(str.strip, row)):
                        line = dialect.skipped + rows.line_num
                        raise DmrecError(f"{self.path}, line {line}: {len(row)} fields, but the header has {width}")
                    line = dialect.skipped + rows.line_num
        except UnicodeDecodeError as error:
            raise DmrecError(f"{self.path} is not text in {dialect.encoding} ({error}); name it: --encoding") from None
        except (csv.Error, *DAMAGED) as error:
            unclosed = "a quote is opened and never closed" if "unexpected end of data" in str(error) else error
            raise DmrecError(f"{self.path}, line {line + 1}: {unclosed}") from None


def _same(row: list[str], header: list[str]) -> bool:
    return [row[0].lstrip("\ufeff").strip(), *map(str.strip, row[1:])] == header

"""Files of interactions that an engine reads: which they are, their columns, and how they are written."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from ..engines.engine import DELIMITED, JSON_LINES, PARQUET, SourceFiles
from . import folders
from .arrow import import_pyarrow
from .columns import IGNORED, choose_columns
from .dialect import TableFormat, sniff
from .encoding import layers_of, open_text
from .records import JSON_LINES as JSON_ENDINGS
from .records import PACKED, check_file, kind_of, read_rows
from .tables import SAMPLE, TABLES
from .values import NumberParser

LARGE = 1_000_000_000
"""Bytes of sources beyond which they are imported by an engine."""
TEXT, WHOLE, FLOAT = "text", "whole", "float"


@dataclass(frozen=True)
class LargeTable:
    """A table of interactions in files, and what is known of its columns.

    Fields:
        source: the files.
        columns: the names of the columns of user, item and, where there is one, rating.
        kinds: what these hold: `TEXT`, `WHOLE` or `FLOAT` numbers.
        decimal: "." or ",", in ratings that are text.
    """

    source: SourceFiles
    columns: dict[str, str]
    kinds: dict[str, str]
    decimal: str = "."


def is_pattern(source: Path) -> bool:
    """Whether a path is a pattern of files."""
    return any(character in str(source) for character in "*?[") and not source.exists()


def is_large(source: Path) -> bool:
    """Whether a source is for an engine: a pattern, a folder of tables of one kind that is not a known layout, or more
    than `LARGE` bytes in a table or a folder of Parquet parts.
    """
    if is_pattern(source):
        return True
    if not source.is_dir():
        return source.is_file() and source.stat().st_size > LARGE
    endings = {_ending(path) for path in _visible(source)}
    if endings == {".parquet"}:
        return sum(path.stat().st_size for path in _visible(source)) > LARGE
    return (
        len(endings) == 1 and None not in endings and not any(any(source.glob(pattern)) for pattern in folders.FOLDERS)
    )


def files_of(source: Path) -> list[Path]:
    """The files that a pattern, a folder of tables or the path of a file means, in the order of their names.

    Raises:
        DmrecError: there are none.
    """
    if is_pattern(source):
        found = sorted(filter(Path.is_file, map(Path, glob.glob(str(source), recursive=True))))  # noqa: PTH207
        if not found:
            raise DmrecError(f"no file matches the pattern {source}")
        return found
    if source.is_dir():
        if found := [path for path in _visible(source) if _ending(path)]:
            return found
        raise DmrecError(f"{source} holds no table; known: {', '.join(TABLES)}")
    check_file(source)
    return [source]


def _visible(folder: Path) -> list[Path]:
    """What a folder holds; engines mark what is not data with a dot or an underscore."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))


def _ending(path: Path) -> str | None:
    """That of a table, without that of compression; None of anything else."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return next((ending for ending in TABLES if name.endswith(ending) and path.is_file()), None)


def read_table(files: Sequence[Path], columns: dict[str, str], given: TableFormat) -> LargeTable:
    """What the first file's header and first rows show; the others must have the same columns.

    Args:
        files: at least one.
        columns: names of columns by role, where they are not the usual ones.
        given: how delimited files are written, where that is not to be found out. They are UTF-8.

    Raises:
        DmrecError: a file is not a table, or of another kind than the first; a column is missing, or two may be meant.
    """
    kinds = {path: kind_of(path) for path in files}
    for path, kind in kinds.items():
        if kind != kinds[files[0]]:
            raise DmrecError(f"{path} and {files[0].name} are tables of different kinds: name files of one kind")
    if given.encoding is not None and given.encoding.lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig"):
        raise DmrecError(f"--encoding {given.encoding}: large sources must be UTF-8; convert them first")
    wanted = {**columns, "time": IGNORED}
    if kinds[files[0]] == ".parquet":
        return _read_parquet(files, wanted)
    compressed = {path: layers_of(path) for path in files}
    for path, layers in compressed.items():
        if layers != compressed[files[0]] or len(layers) > 1:
            raise DmrecError(f"{path} is compressed in another way than {files[0].name}, or more than once")
    layer = next(iter(compressed[files[0]]), None)
    if kinds[files[0]] in JSON_ENDINGS:
        return _read_json(files, wanted, given, layer)
    return _read_delimited(files, kinds[files[0]], wanted, given, layer)


def _read_parquet(files: Sequence[Path], wanted: dict[str, str]) -> LargeTable:
    first, sample = _parquet_head(files[0])
    chosen = choose_columns(files[0], first.names, wanted, sample)
    for path in files[1:]:
        schema, _ = _parquet_head(path)
        for name in chosen.values():
            if name not in schema.names or schema.field(name).type != first.field(name).type:
                has = f"holds {schema.field(name).type}" if name in schema.names else "is missing"
                raise DmrecError(f"{path}, column {name} {has}; in {files[0].name} it holds {first.field(name).type}")
    kinds = {role: _kind(first.field(name).type, f"{files[0]}, column {name}", role) for role, name in chosen.items()}
    return LargeTable(SourceFiles(files, PARQUET, first.names), chosen, kinds)


def _parquet_head(path: Path) -> tuple[Any, list[list[Any]]]:
    """The schema of a Parquet file, and some values of each column."""
    pyarrow = import_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            head = next(file.iter_batches(batch_size=SAMPLE), None)
            return file.schema_arrow, [] if head is None else [_plain(column) for column in head.columns]
    except (pyarrow.ArrowException, OSError) as error:
        raise DmrecError(f"{path} is not a Parquet file ({error})") from None


def _plain(column: Any) -> list[Any]:
    return [] if import_pyarrow().types.is_nested(column.type) else column.to_pylist()


def _kind(of: Any, where: str, role: str) -> str:
    """What a column of Parquet holds."""
    types = import_pyarrow().types
    if types.is_dictionary(of):
        of = of.value_type
    if types.is_string(of) or types.is_large_string(of) or types.is_string_view(of):
        return TEXT
    if types.is_integer(of):
        return WHOLE
    if types.is_floating(of) or (role == "rating" and types.is_decimal(of)):
        return FLOAT
    what = "a rating must be a number or text" if role == "rating" else "an id must be text or a whole number"
    raise DmrecError(f"{where} holds {of}; {what}")


def _read_delimited(
    files: Sequence[Path], ending: str, wanted: dict[str, str], given: TableFormat, layer: str | None
) -> LargeTable:
    given = TableFormat(given.delimiter, given.decimal, "utf-8-sig", given.header, given.columns)
    dialects = [sniff(path, ending, given) for path in files]
    first = dialects[0]
    for path, dialect in zip(files, dialects, strict=True):
        if dialect.skipped:
            raise DmrecError(f"{path} has {dialect.skipped} lines before its header; remove them")
        if (dialect.header, dialect.delimiter) != (first.header, first.delimiter):
            raise DmrecError(
                f"{path} has the columns {', '.join(dialect.header)}, but {files[0].name} has {', '.join(first.header)}"
            )
    rows = read_rows(files[0], given)
    sample = list(islice(rows, SAMPLE))
    names = rows.names
    chosen = choose_columns(files[0], names, wanted, list(zip(*sample, strict=True)))
    numbers = NumberParser(f"{files[0]}, column {chosen.get('rating')}", given.decimal)
    if "rating" in chosen:
        for number, row in enumerate(sample, start=1):
            numbers.read(number, row[names.index(chosen["rating"])])
    source = SourceFiles(files, DELIMITED, names, first.delimiter, first.quoted, first.in_file, layer)
    return LargeTable(source, chosen, dict.fromkeys(chosen, TEXT), numbers.decimal or ".")


def _read_json(files: Sequence[Path], wanted: dict[str, str], given: TableFormat, layer: str | None) -> LargeTable:
    with open_text(files[0], "utf-8-sig") as lines:
        sample = [_record(files[0], n, line) for n, line in enumerate(islice(lines, SAMPLE), 1) if line.strip()]
    if not sample:
        raise DmrecError(f"{files[0]} has no records")
    names = list(dict.fromkeys(name for record in sample for name in record))
    values = [[_scalar(record.get(name)) for record in sample] for name in names]
    chosen = choose_columns(files[0], names, wanted, values)
    for role, name in chosen.items():
        for number, record in enumerate(sample, start=1):
            if isinstance(record.get(name), dict | list | bool):
                raise DmrecError(f"{files[0]}, record {number}, field {name}: the {role} must be text or a number")
    numbers = NumberParser(f"{files[0]}, column {chosen.get('rating')}", given.decimal)
    if "rating" in chosen:
        for number, record in enumerate(sample, start=1):
            numbers.read(number, record.get(chosen["rating"]))
    source = SourceFiles(files, JSON_LINES, list(dict.fromkeys(chosen.values())), compression=layer)
    return LargeTable(source, chosen, dict.fromkeys(chosen, TEXT), numbers.decimal or ".")


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise DmrecError(f"{path}, line {number}: large sources must have a JSON object in each line: {line[:60]!r}")
    return record


def _scalar(value: Any) -> Any:
    return "" if isinstance(value, list | dict) else value

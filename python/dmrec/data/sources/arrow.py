"""Interactions from Arrow tables, which Parquet files, pandas and polars become."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError
from .columns import choose_columns
from .interactions import Interactions, interactions_from
from .times import TimeColumn, Times, no_time, times_of_numbers
from .values import NumberParser, id_text

SAMPLE = 1000
"""Rows by which a column of ratings with an unusual name is recognised."""


def import_pyarrow() -> Any:
    """The module pyarrow, an optional dependency, with its Parquet.

    Raises:
        DmrecError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise DmrecError("reading Parquet and data frames needs pyarrow: pip install 'dmrec[parquet]'") from None
    return pyarrow


def read_parquet(path: Path, columns: dict[str, str]) -> tuple[Any, list[str]]:
    """The columns of a Parquet file that interactions need (see `choose_columns`), as an Arrow table, and the names of
    all columns.
    """
    pyarrow = import_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            head = next(file.iter_batches(batch_size=SAMPLE), None) if _distinct(schema.names) else None
            chosen = choose_columns(path, schema.names, columns, _sample(head, schema.names))
            return file.read(columns=list(dict.fromkeys(chosen.values()))), list(schema.names)
    except (pyarrow.ArrowException, OSError) as error:
        raise DmrecError(f"{path} is not a Parquet file ({error})") from None


def _distinct(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _sample(table: Any, names: Sequence[str]) -> list[list[Any]]:
    """Some values of each column; none of columns of lists or objects."""
    if table is None:
        return [[] for _ in names]
    types = import_pyarrow().types
    return [
        [] if types.is_nested(field.type) else table.column(number)[:SAMPLE].to_pylist()
        for number, field in enumerate(table.schema)
    ]


def interactions_of(
    table: Any, place: object, columns: dict[str, str], names: Sequence[str] | None = None
) -> Interactions:
    """Interactions from an Arrow table; columns are matched as `choose_columns` does.

    Args:
        table: the table, or those columns of it that are needed.
        place: the source, for errors.
        columns: names of columns by role.
        names: the names of all columns, if the table has only some of them.

    Raises:
        DmrecError: a column is missing or of a wrong type, or many rows have no id, or one has no time where others do.
    """
    sample = _sample(table.slice(0, SAMPLE), table.column_names) if _distinct(table.column_names) else ()
    every = table.column_names
    chosen = choose_columns(place, every, columns, sample)
    table = _plain(table.select(list(dict.fromkeys(chosen.values()))))
    total, rows = len(table), np.arange(1, len(table) + 1)
    if "rating" in chosen:
        rated = table[chosen["rating"]].is_valid()
        table, rows = table.filter(rated), rows[rated.to_numpy()]
    ids = [_ids(table[chosen[role]], f"{place}, column {chosen[role]}") for role in ("user", "item")]
    rating = _ratings(table[chosen["rating"]], f"{place}, column {chosen['rating']}") if "rating" in chosen else None
    times = None
    if "time" in chosen and len(table):
        times = _times(table[chosen["time"]], f"{place}, column {chosen['time']}", rows)
    unused = [name for name in names or every if name not in chosen.values()]
    notes = {"unused_columns": unused} if unused else {}
    return interactions_from(ids, rating, times, str(place), chosen, total - len(table), notes)


def _plain(table: Any) -> Any:
    """The table with texts in a type that can be filtered: polars hands them on in another."""
    pyarrow = import_pyarrow()
    for number, field in enumerate(table.schema):
        if pyarrow.types.is_string_view(field.type):
            table = table.set_column(number, field.name, table[number].cast(pyarrow.large_string()))
    return table


def _ids(column: Any, place: str) -> tuple[list[str | None], np.ndarray]:
    """The distinct ids of a column as text, None for a null, and the position of each entry's among them."""
    types = import_pyarrow().types
    column = column.combine_chunks()
    while types.is_struct(column.type) and column.type.num_fields == 1:
        column = column.flatten()[0]
    if types.is_nested(column.type):
        raise DmrecError(f"{place} holds {column.type}; an id must be text or a whole number")
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.dictionary_encode()
    distinct: list[str | None] = [id_text(value, place) for value in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(len(distinct)).to_numpy()
    return [*distinct, None], np.asarray(codes, dtype=np.int64)


def _ratings(column: Any, place: str) -> np.ndarray:
    types = import_pyarrow().types
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_decimal(column.type):
        return np.asarray(column.cast("float64").to_numpy(), dtype=np.float64)
    numbers = NumberParser(place)
    found = [numbers.read(row, value) for row, value in enumerate(column.to_pylist(), start=1)]
    return np.array(found, dtype=np.float64)


def _times(column: Any, place: str, rows: np.ndarray) -> Times:
    types = import_pyarrow().types
    if column.null_count:
        raise no_time(place, int(rows[np.argmin(column.is_valid().to_numpy())]))
    if types.is_timestamp(column.type) or types.is_date(column.type):
        zone = getattr(column.type, "tz", None)
        stamps = column.cast(import_pyarrow().timestamp("us", zone), safe=False).cast("int64")
        return Times(np.asarray(stamps.to_numpy()), "timestamps")
    if types.is_integer(column.type) or types.is_floating(column.type):
        values = column.cast("float64" if types.is_floating(column.type) else "int64").to_numpy()
        if not np.isfinite(values).all():
            raise no_time(place, int(rows[np.argmin(np.isfinite(values))]))
        return times_of_numbers(values, place, rows)
    found = TimeColumn(place)
    for row, value in zip(rows.tolist(), column.to_pylist(), strict=True):
        found.add(row, value)
    return found.times()

"""Interactions from Arrow tables, which Parquet files, pandas and polars become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError
from .columns import choose_columns
from .interactions import Ids, Interactions, sorted_ids
from .times import TimeColumn, Times, no_time, times_of_numbers


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


def read_parquet(path: Path, columns: dict[str, str]) -> Any:
    """The columns of a Parquet file that interactions need (see `choose_columns`), as an Arrow table."""
    pyarrow = import_pyarrow()
    try:
        names = pyarrow.parquet.read_schema(path).names
        chosen = choose_columns(path, names, columns)
        return pyarrow.parquet.read_table(path, columns=list(chosen.values()))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DmrecError(f"{path} is not a Parquet file ({error})") from None


def interactions_of(table: Any, place: object, columns: dict[str, str]) -> Interactions:
    """Interactions from an Arrow table; columns are matched as `choose_columns` does.

    ``place``: the source, for errors.

    Raises:
        DmrecError: a column is missing or of a wrong type, or a row has no id, or no time where others have one.
    """
    chosen = choose_columns(place, table.column_names, columns)
    table = _plain(table.select(list(dict.fromkeys(chosen.values()))))
    total, rows = len(table), np.arange(1, len(table) + 1)
    if "rating" in chosen:
        rated = table[chosen["rating"]].is_valid()
        table, rows = table.filter(rated), rows[rated.to_numpy()]
    user, item = (_ids(table[chosen[role]], f"{place}, column {chosen[role]}", rows) for role in ("user", "item"))
    rating = _ratings(table[chosen["rating"]], f"{place}, column {chosen['rating']}") if "rating" in chosen else None
    times = None
    if "time" in chosen and len(table):
        times = _times(table[chosen["time"]], f"{place}, column {chosen['time']}", rows)
    return Interactions(user, item, rating, chosen, total - len(table), times)


def _plain(table: Any) -> Any:
    """The table with texts in a type that can be filtered: polars hands them on in another."""
    pyarrow = import_pyarrow()
    for number, field in enumerate(table.schema):
        if pyarrow.types.is_string_view(field.type):
            table = table.set_column(number, field.name, table[number].cast(pyarrow.large_string()))
    return table


def _ids(column: Any, place: str, rows: np.ndarray) -> Ids:
    """``rows``: the number of each entry in the source, counted from 1."""
    pyarrow = import_pyarrow()
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.combine_chunks().dictionary_encode()
    distinct: list[Any] = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(len(distinct)).to_numpy()
    missing = np.array([*(name == "" for name in distinct), True])[codes]
    if missing.any():
        raise DmrecError(f"{place}: row {rows[int(missing.argmax())]} has no id; fill it in or drop the row")
    return sorted_ids(list(map(str, distinct)), codes, place)


def _ratings(column: Any, place: str) -> np.ndarray:
    try:
        return np.asarray(column.cast("float64").to_numpy(), dtype=np.float64)
    except (ValueError, TypeError, NotImplementedError) as error:  # pyarrow's own are such
        raise DmrecError(f"{place}: not all values are numbers ({error})") from None


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

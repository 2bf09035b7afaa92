"""Columns of equal length: what the Python interface returns, and what any data frame library takes."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import DmrecError

SHOWN = 10  # rows at each end of what is printed


class Table:
    """Named columns, numpy arrays of one length; text columns are arrays of strings (dtype object).

    >>> table = Table({"item": ["a", "b"], "score": [0.5, 0.25]})
    >>> table
    item  score
    a     0.5
    b     0.25
    2 rows
    >>> table["score"].max(), len(table), table.columns
    (np.float64(0.5), 2, ['item', 'score'])
    >>> list(table.rows())
    [{'item': 'a', 'score': 0.5}, {'item': 'b', 'score': 0.25}]
    """

    def __init__(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        self._columns = {name: _column(values) for name, values in columns.items()}
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Table: columns must have one length, got {lengths}")

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def __len__(self) -> int:
        return next((len(values) for values in self._columns.values()), 0)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries of Python values."""
        lists = {name: values.tolist() for name, values in self._columns.items()}
        return (dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True))

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``."""
        return _library("pandas").DataFrame(self._columns)

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``."""
        polars = _library("polars")
        texts = {name: polars.String for name, values in self._columns.items() if values.dtype == object}
        columns = {name: values.tolist() if name in texts else values for name, values in self._columns.items()}
        return polars.DataFrame(columns, schema_overrides=texts)

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``."""
        pyarrow = _library("pyarrow")
        arrays = {
            name: pyarrow.array(values.tolist(), pyarrow.string()) if values.dtype == object else pyarrow.array(values)
            for name, values in self._columns.items()
        }
        return pyarrow.table(arrays)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow interface: ``pyarrow.table(table)``, ``polars.DataFrame(table)``, DuckDB and others read it."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        lines = [self.columns, *([_shown(value) for value in row.values()] for row in self._ends())]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        if len(self) > 2 * SHOWN:
            text.insert(1 + SHOWN, "..")
        return "\n".join([*text, f"{len(self)} row{'s' * (len(self) != 1)}"])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        rows = ["".join(f"<td>{html.escape(_shown(value))}</td>" for value in row.values()) for row in self._ends()]
        if len(self) > 2 * SHOWN:
            rows.insert(SHOWN, "<td>..</td>" * len(self.columns))
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{len(self)} rows</p>"

    def _ends(self) -> Iterator[dict[str, Any]]:
        """The first and last rows."""
        every = range(len(self))
        chosen = [*every[:SHOWN], *every[max(SHOWN, len(self) - SHOWN) :]]
        return ({name: values[row] for name, values in self._columns.items()} for row in chosen)


def _column(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    if values and isinstance(values[0], str):
        return np.array(values, dtype=object)
    return np.array(values)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise DmrecError(f"{name} is not installed: pip install {name}") from None

"""Folders of Parquet parts, as Spark and dask write them."""

from __future__ import annotations

from pathlib import Path

from ...errors import DmrecError
from .arrow import import_pyarrow, interactions_of, read_parquet
from .source import Source


def read_parts(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """One table from all ``*.parquet`` files of a folder, in the order of their names.

    Raises:
        DmrecError: the parts have different columns.
    """
    files = sorted(folder.glob("*.parquet"))
    tables, names = zip(*(read_parquet(path, columns or {}) for path in files), strict=True)
    for path, table in zip(files, tables, strict=True):
        if table.schema.names != tables[0].schema.names:
            raise DmrecError(
                f"{path} has the columns {', '.join(table.schema.names)}, but {files[0].name} has "
                f"{', '.join(tables[0].schema.names)}"
            )
    table = import_pyarrow().concat_tables(tables, promote_options="permissive")
    return Source(interactions_of(table, folder, columns or {}, names[0]), files)

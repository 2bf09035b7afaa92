"""Folders of a known layout, recognised by the name of one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import DmrecError
from . import movielens, parquet, recbole, rlmrec, sequence_layouts
from .source import Source

FOLDERS: dict[str, Callable[[Path, dict[str, str]], Source]] = {
    "*.inter": recbole.read_folder,
    "*.inter.json": sequence_layouts.read_letter,
    "*.test.jsonl": sequence_layouts.read_etegrec,
    "trn_mat.pkl": rlmrec.read_folder,
    "u.data": movielens.read_u_data,
    "ratings.dat": movielens.read_dat,
    "ratings.csv": movielens.read_csv,
    "*.parquet": parquet.read_parts,
}
"""The reader of each layout by the pattern of the file that identifies it."""


def read_folder(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """Reads ``folder`` with the one reader whose file is in it. ``columns``: names of columns by role, for its tables.

    Raises:
        DmrecError: the folder matches no layout, or several.
    """
    found = [pattern for pattern in FOLDERS if any(folder.glob(pattern))]
    if len(found) == 1:
        return FOLDERS[found[0]](folder, columns or {})
    if found:
        raise DmrecError(
            f"{folder} matches several layouts: it holds {' and '.join(found)}; give the table instead of the folder"
        )
    raise DmrecError(
        f"{folder} has an unknown layout: it holds none of {', '.join(FOLDERS)}; give a table, or see docs/data.md"
    )

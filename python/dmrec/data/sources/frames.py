"""Datasets from data frames: pandas, polars, Arrow, and whatever else has the Arrow interface."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from ..create import check_free
from ..dataset import Dataset
from ..entities import Entity
from ..splits import Shares
from .arrow import import_pyarrow, interactions_of
from .descriptions import entities_of
from .importer import make_dataset
from .source import Source


def dataset_from_frame(
    frame: Any,
    *,
    items: Any = None,
    users: Any = None,
    folder: str | Path | None = None,
    name: str | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    time_column: str | None = None,
    title_column: str | None = None,
    tags_column: str | None = None,
    description_column: str | None = None,
    text_column: str | None = None,
    split: str = "random",
    ratios: str = "3:1:1",
    min_rating: float = 3.0,
    k_core: int = 5,
    seed: int = 0,
    replace: bool = False,
) -> Dataset:
    """Makes a dataset from a data frame of interactions: filters it, splits it, writes a dataset folder and opens it.

    Args:
        frame: a row for each interaction: a pandas or polars ``DataFrame``, a ``pyarrow.Table``, or another object with
            the Arrow interface. Columns are found by their usual names, as ``dmrec data import`` finds them.
        items: a frame that describes items: ``id``, ``title``, ``text``, ``tags``, ``description`` or the usual names
            of these; only ``id`` is required.
        users: a frame that describes users.
        folder: where the dataset is written; None for a temporary folder, which lives as long as the returned object.
        name: the name of the dataset; default: that of ``folder``, or "frame".
        user_column, item_column, rating_column, time_column: names of columns that have no usual one;
            ``time_column="none"`` leaves times out, ``rating_column="none"`` ratings.
        title_column, tags_column, description_column, text_column: the same in ``items`` and ``users``.
        split: "random", "leave-one-out", "time" or "time-per-user".
        ratios: training, validation and test; ``"4:1:0"`` holds nothing out for test.
        min_rating: ratings below it are dropped.
        k_core: users and items with fewer interactions are dropped.
        seed: of the random split.
        replace: whether a dataset in ``folder`` is replaced, together with its profiles and vectors.

    Raises:
        DmrecError: a column is missing or of a wrong type, an option is unknown, or no interaction is left.

    >>> import dmrec, pyarrow
    >>> log = pyarrow.table({"user": list("aaabbb"), "item": list("xyzxyz"), "time": [1, 2, 3, 3, 2, 1]})
    >>> data = dmrec.dataset(log, split="leave-one-out", k_core=1)
    >>> data.n_users, data.n_items, data.split("test").nnz
    (2, 3, 2)
    """
    given = {"user": user_column, "item": item_column, "rating": rating_column, "time": time_column}
    given |= {"title": title_column, "tags": tags_column, "description": description_column, "text": text_column}
    columns = {role: column for role, column in given.items() if column is not None}
    source = Source(
        interactions_of(_table(frame, "frame"), "frame", columns),
        [],
        _entities(items, "item", columns),
        _entities(users, "user", columns),
        columns=columns,
    )
    if folder is not None:
        check_free(Path(folder), replace)
    root = Path(tempfile.mkdtemp(prefix="dmrec-") if folder is None else folder)
    called = name or ("frame" if folder is None else root.name)
    try:
        options: dict[str, Any] = {"min_rating": min_rating, "k_core": k_core, "split": split, "seed": seed}
        dataset = make_dataset(source, root, name=called, shares=Shares.of(ratios), **options)
    except BaseException:
        if folder is None:
            shutil.rmtree(root, ignore_errors=True)
        raise
    if folder is None:
        weakref.finalize(dataset, shutil.rmtree, root, ignore_errors=True)
    return dataset


def _entities(frame: Any, kind: str, columns: dict[str, str]) -> list[Entity] | None:
    return None if frame is None else entities_of(records_of(frame, f"{kind}s"), f"{kind}s", kind, columns)


def records_of(frame: Any, argument: str) -> Iterator[dict[str, Any]]:
    """The rows of a frame, names of columns in lower case. ``argument``: what errors call it."""
    for row in _table(frame, argument).to_pylist():
        yield {str(name).lower(): value for name, value in row.items()}


def _table(frame: Any, argument: str) -> Any:
    """An Arrow table of a frame."""
    pyarrow = import_pyarrow()
    if isinstance(frame, pyarrow.Table):
        return frame
    if hasattr(frame, "__arrow_c_stream__"):
        return pyarrow.table(frame)
    if type(frame).__module__.startswith("pandas."):
        return pyarrow.Table.from_pandas(frame, preserve_index=False)
    raise DmrecError(
        f"{argument} must be a pandas or polars data frame or an Arrow table, got {type(frame).__name__}; files are "
        "imported with dmrec data import"
    )

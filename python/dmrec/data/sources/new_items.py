"""Items that are not in a dataset yet: a table of what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import DmrecError, counted
from ..dataset import Dataset
from ..grown import NewItem
from .descriptions import entities_of
from .frames import records_of
from .records import iterate_records

VECTOR = "vector"


class NewItems(NamedTuple):
    """New items, each once, and what of a table was left out."""

    items: list[NewItem]
    known: list[str]  # ids that the dataset has already
    without_text: list[str]  # ids of which nothing is known that a model could read

    @property
    def summary(self) -> str:
        """In words."""
        parts = [counted(len(self.items), "new item")]
        for ids, why in ((self.known, "known already"), (self.without_text, "without a text")):
            if ids:
                parts.append(f"{len(ids)} {why}, such as '{ids[0]}': left out")
        return "; ".join(parts)


def read_new_items(table: Any, dataset: Dataset, argument: str = "new_items") -> NewItems:
    """The items of a table that ``dataset`` does not have.

    Args:
        table: a file (.csv, .jsonl, .parquet ..), a data frame, or a sequence of dictionaries: ``id``, and ``title``,
            ``tags``, ``description`` or ``text``, by their usual names; or ``vector``, the item's text vector.
        dataset: where the items are to join.
        argument: what errors call the table.

    Raises:
        DmrecError: the table cannot be read, an id is missing or there twice, a vector is not a list of numbers, or no
            item is new.
    """
    place = str(table) if isinstance(table, str | Path) else argument
    records = list(_records(table, argument))
    vectors = [_vector(record.pop(VECTOR, None), place, number) for number, record in enumerate(records, start=1)]
    entities = entities_of(records, place, "item", {})
    in_training = dataset.rows_named("items", [entity.id for entity in entities])
    known, without_text, items = [], [], dict[str, NewItem]()
    for entity, vector in zip(entities, vectors, strict=True):
        if entity.id in items:
            raise DmrecError(f"{place}: item '{entity.id}' is there twice")
        if entity.id in in_training:
            known.append(entity.id)
        elif not entity.text and not entity.title and vector is None:
            without_text.append(entity.id)
        else:
            items[entity.id] = NewItem(entity, vector)
    if not items:
        why = f"{len(known)} are in {dataset.name} already, {len(without_text)} have neither a text nor a vector"
        raise DmrecError(f"{place} has no new item: {why}")
    return NewItems(list(items.values()), known, without_text)


def _records(table: Any, argument: str) -> Iterable[dict[str, Any]]:
    if isinstance(table, str | Path):
        return iterate_records(Path(table))
    if isinstance(table, list | tuple):
        if any(not isinstance(record, Mapping) for record in table):
            raise DmrecError(f"{argument} must be a file, a data frame or dictionaries with id and text")
        return ({str(name).lower(): value for name, value in record.items()} for record in table)
    return records_of(table, argument)


def _vector(value: Any, place: str, number: int) -> np.ndarray | None:
    if value is None:
        return None
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        vector = np.zeros((0, 0), dtype=np.float32)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise DmrecError(f"{place}, record {number}: vector must be a list of finite numbers")
    return vector

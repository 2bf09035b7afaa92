"""Titles and texts of the items and users of large sources: read one by one, joined by id by the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..engines import statements
from ..engines.engine import Engine
from ..entities import Entity, entity_of
from .arrow import import_pyarrow
from .columns import IDS, ColumnResolver, description_of, plain_name
from .descriptions import SAMPLE, check_described, field_of_ids, no_common_id
from .records import iterate_records
from .values import clean_ids, id_text

BATCH = 10_000
"""Descriptions that are held in memory."""


def load_descriptions(
    engine: Engine, scratch: Path, files: Sequence[Path], side: str, columns: dict[str, str]
) -> dict[str, Any]:
    """The table ``{side}_chosen`` of the descriptions of those users or items ("user", "item") that the filters kept.

    They are matched as `read_those` does: by the field whose values are most often ids of the interactions; of several
    the first with a title.

    Returns:
        Counts for the manifest.

    Raises:
        DmrecError: none has an id of the interactions, or no field is known.
    """
    pyarrow = import_pyarrow()
    schema = pyarrow.schema([*((name, pyarrow.string()) for name in ("id", "title", "text")), ("position", "int64")])
    unused = {f"{side}s_described_without_id": 0}
    path, position, example = scratch / f"{side}_descriptions.parquet", 0, ""
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for file in files:
            entities = _entities(engine, file, side, columns, unused)
            while batch := list(islice(entities, BATCH)):
                example = example or batch[0].id
                rows = [(e.id, e.title, e.text, position + n) for n, e in enumerate(batch)]
                writer.write_table(pyarrow.table(list(zip(*rows, strict=True)), schema=schema))
                position += len(batch)
    engine.read_parquet(f"{side}_descriptions", path)
    engine.table(f"{side}_chosen", statements.chosen_descriptions(side))
    chosen, first = engine.row(f"SELECT count(*) FROM {side}_chosen"), engine.row(f"SELECT min(id) FROM {side}_numbers")
    found = int(chosen[0]) if chosen else 0
    if not found:
        raise no_common_id(side, str(first[0]) if first else "", example)
    return {name: count for name, count in {f"{side}s_described": found, **unused}.items() if count}


def _entities(
    engine: Engine, file: Path, side: str, columns: dict[str, str], unused: dict[str, int]
) -> Iterator[Entity]:
    """The descriptions in a file that have an id."""
    records = iterate_records(file)
    sample = list(islice(records, SAMPLE))
    field = field_of_ids(sample, side, _known(engine, sample, side, columns), columns)
    resolver = ColumnResolver(file, side, IDS[side], columns.get(side), field=field)
    checked = list[Entity]()
    for number, record in enumerate(chain(sample, records), start=1):
        (identity,) = clean_ids([resolver.identity(number, record)], f"{file}, record {number}")
        if identity is None:
            unused[f"{side}s_described_without_id"] += 1
            continue
        entity = entity_of(identity, description_of(record, columns))
        if number <= SAMPLE:
            checked.append(entity)
            if number == len(sample):
                check_described(checked, file, side, dict.fromkeys(sample[0]), columns)
        yield entity


def _known(engine: Engine, sample: Sequence[dict[str, Any]], side: str, columns: dict[str, str]) -> set[str]:
    """Those values of a sample that are ids of the interactions."""
    names = {*IDS[side], *(f"{name}s" for name in IDS[side]), *([plain_name(columns[side])] if side in columns else [])}
    values = [value for record in sample for name, value in record.items() if plain_name(name) in names]
    texts = [id_text(v, "") for v in values if isinstance(v, str | int | float) and not isinstance(v, bool)]
    ids = sorted({each for each in clean_ids(texts, "") if each})
    if not ids:
        return set()
    return {
        str(value) for batch in engine.batches(statements.known_ids(side, ids)) for value in batch.column(0).to_pylist()
    }

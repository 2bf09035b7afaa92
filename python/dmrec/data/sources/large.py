"""Imports sources that are larger than memory: an engine filters, numbers and sorts, then one pass writes the parts."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from ...errors import DmrecError, did_you_mean
from ...files import locked
from ..create import check_dataset_name, check_sources
from ..create_parts import Descriptions, create_large_dataset
from ..dataset import Dataset
from ..engines import ENGINES, statements
from ..engines.engine import PARQUET, Engine
from ..engines.memory import memory_of_engine
from ..entities import LONGEST_ID, fault_of_id
from ..splits import EQUAL, Shares
from .arrow import import_pyarrow
from .dialect import FOUND_OUT, TableFormat
from .interactions import MOST_MISSING
from .large_descriptions import load_descriptions
from .large_files import FLOAT, TEXT, LargeTable, files_of, read_table
from .records import iterate_records
from .streamed_split import StreamedSplit

SIDES = ("user", "item")
SEARCHED = 10_000_000
"""Rows of a file in which the place of an error is looked for."""
STRANGE = r"[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]"


def import_large(
    source: Path,
    folder: Path,
    *,
    name: str,
    engine: str = "duckdb",
    memory: int | None = None,
    columns: dict[str, str] | None = None,
    items: Path | None = None,
    users: Path | None = None,
    given: TableFormat = FOUND_OUT,
    min_rating: float = 3.0,
    k_core: int = 5,
    seed: int = 0,
    shares: Shares = EQUAL,
) -> Dataset:
    """Makes a dataset of format 2: distinct pairs above the rating, their core, numbered by the MD5 of ids, split at
    random per user. The result does not depend on the engine, its threads, the order of rows or the memory.

    Args:
        source: a file, a pattern of files, or a folder of tables.
        folder: where to write; temporary files are next to it.
        name: the dataset's name.
        engine: one of `ENGINES`.
        memory: bytes; default: half of what is free.
        columns: names of columns by role, where they are not the usual ones.
        items, users: tables with titles and texts.
        given: how delimited files are written, where that is not to be found out.
        min_rating, k_core, seed, shares: as for `prepare`.

    Raises:
        DmrecError: a file cannot be read, a value is wrong, or nothing is left.
    """
    check_dataset_name(name)
    if engine not in ENGINES:
        raise DmrecError(f"--engine {engine}: there is {', '.join(ENGINES)}{did_you_mean(engine, ENGINES)}")
    if not math.isfinite(min_rating):
        raise DmrecError(f"--min-rating must be a number, got {min_rating}")
    import_pyarrow()
    files = files_of(source)
    check_sources(folder, [*files, *(path for path in (items, users) if path is not None)])
    table = read_table(files, columns or {}, given)
    with _scratch_of(folder) as scratch:
        running = ENGINES[engine](scratch, memory_of_engine(memory))
        with contextlib.closing(running):
            report = _load(running, table, min_rating)
            report |= _filter(running, min_rating, k_core, report)
            for side, path in (("item", items), ("user", users)):
                if path is not None:
                    report |= load_descriptions(running, scratch, files_of(path), side, columns or {})
            split = StreamedSplit(scratch, report["users"], report["items"], seed, shares)
            split.take(running.batches(statements.sorted_pairs()))
            provenance = {
                "source": {str(source): {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}},
                "engine": {"name": running.name, "statements": statements.VERSION},
                **{"min_rating": min_rating, "k_core": k_core, "split": "random", "seed": seed},
                **({} if shares == EQUAL else {"held_out": shares._asdict()}),
                **{key: value for key, value in report.items() if key not in ("users", "items")},
            }
            return create_large_dataset(
                folder,
                name,
                split.blocks(),
                report["items"],
                items=_described(running, "item", with_texts=items is not None),
                users=_described(running, "user", with_texts=users is not None),
                provenance=lambda: {**provenance, "moved_to_train": split.moved_to_train},
            )


def _load(engine: Engine, table: LargeTable, min_rating: float) -> dict[str, Any]:
    """The tables of ids and of distinct pairs; counts of rows, for the manifest."""
    relation, file = engine.relation(table.source)
    column = {role: engine.quote(name) for role, name in table.columns.items()}
    ids = {}
    for side in SIDES:
        ids[side] = statements.id_of_text(column[side])
        if table.kinds[side] == FLOAT:
            ids[side] = statements.id_of_float(column[side])
            if (found := engine.row(statements.fractions(relation, column[side]))) and found[0] is not None:
                raise DmrecError(
                    f"{table.source.files[0]}, column {table.columns[side]}: the id {found[0]} is not a whole number "
                    "below 2^53; write ids as whole numbers or as text"
                )
    rating = statements.no_rating()
    if "rating" in column and table.kinds["rating"] == TEXT:
        rating = statements.rating_of_text(column["rating"], table.decimal)
    elif "rating" in column:
        rating = statements.rating_of_number(column["rating"])
    keep = engine.view if table.source.kind == PARQUET else engine.table  # text is read once
    keep("source", statements.source(relation, ids["user"], ids["item"], rating, file))
    lowest = min_rating if "rating" in column else 0.0
    counts = engine.row(statements.counts(lowest)) or (0, 0, 0, 0)
    rows, rated, faults, low = map(int, counts)
    if faults:
        raise _rating_fault(engine, table)
    if not rated:
        why = "no row has a rating; fill in the column of ratings or drop it" if rows else "there are no rows"
        raise DmrecError(f"{table.source.files[0]}: {why}")
    unused = [name for name in table.source.names if name not in table.columns.values()]
    read: dict[str, Any] = {"columns": table.columns, **({"unused_columns": unused} if unused else {})}
    for side in SIDES:
        if without := _load_ids(engine, table, side):
            read[f"rows_without_{side}"] = without
    engine.table("pairs", statements.pairs(lowest))
    if keep == engine.table:
        engine.drop("source")
    engine.drop(*(f"{side}_{kind}" for side in SIDES for kind in ("texts", "hashes", "keys_of_texts")))
    report = {"rows": rows, "rows_without_rating": rows - rated, "below_min_rating": low, "read": read}
    return {key: value for key, value in report.items() if value or key in ("rows", "below_min_rating")}


def _load_ids(engine: Engine, table: LargeTable, side: str) -> int:
    """The tables of the ids of a side; returns the number of rows without one."""
    engine.table(f"{side}_texts", statements.texts(side))
    rows, without, ids, whole, floats = map(int, engine.row(statements.count_texts(side)) or (0,) * 5)
    if without > MOST_MISSING * rows:
        value, file = engine.row(statements.first_without_id(side)) or ("", "")
        path, column = _path_of(file), table.columns[side]
        row = _row_with(path, column, value)
        raise DmrecError(
            f"{path}, column {column}: {f'row {row}' if row else 'a row'} has no id ('{value}'), and so have {without} "
            f"of {rows} rows; fill them in, drop these rows, or choose another column: --{side}-column"
        )
    as_floats = bool(floats) and floats + whole == ids
    engine.table(f"{side}_hashes", statements.hashes(side, floats=as_floats))
    engine.table(f"{side}_keys", statements.keys(side))
    engine.table(f"{side}_keys_of_texts", statements.keys_of_texts(side, floats=as_floats))
    return without


def _filter(engine: Engine, min_rating: float, k_core: int, report: dict[str, Any]) -> dict[str, Any]:
    """The tables of the numbers of users and items that are in the core; their counts, and those of pairs."""
    kept = _core(engine, k_core)
    counts = {side: _count(engine, kept[side]) for side in SIDES}
    if not all(counts.values()):
        raise DmrecError(
            f"no interaction is left: {report['below_min_rating']} of {report['rows']} rows have a rating below "
            f"{min_rating:g}, and no {k_core}-core of users and items remains; lower --min-rating or --k-core"
        )
    for side in SIDES:
        engine.table(f"{side}_kept_keys", statements.kept_keys(side, kept[side]))
        engine.table(f"{side}_numbers", statements.numbers(side))
        engine.drop(kept[side], f"{side}_kept_keys", f"{side}_keys")
        _check_ids(engine, side)
    distinct, inside = _count(engine, "pairs"), _count(engine, f"({statements.pairs_in_core()}) p")
    return {"users": counts["user"], "items": counts["item"], "distinct": distinct, "outside_core": distinct - inside}


def _core(engine: Engine, k_core: int) -> dict[str, str]:
    """The tables of the keys of users and items in the core: users among kept items and items among kept users, in
    turns, until their numbers stay.
    """
    kept, counts = dict[str, str](), (-1, -1)
    for number in itertools.count():
        for side, other in (("user", "item"), ("item", "user")):
            engine.table(f"kept_{side}s_{number}", statements.kept(side, k_core, kept.get(other)))
            if side in kept:
                engine.drop(kept[side])
            kept[side] = f"kept_{side}s_{number}"
        before, counts = counts, (_count(engine, kept["user"]), _count(engine, kept["item"]))
        if counts == before:
            break
    return kept


def _count(engine: Engine, table: str) -> int:
    found = engine.row(f"SELECT count(*) FROM {table}")
    return int(found[0]) if found else 0


def _check_ids(engine: Engine, side: str) -> None:
    """Refuses ids that are too long or have characters that cannot be shown."""
    import pyarrow.compute

    for batch in engine.batches(f"SELECT id FROM {side}_numbers"):
        ids = batch.column(0)
        strange = pyarrow.compute.or_(
            pyarrow.compute.match_substring_regex(ids, STRANGE),
            pyarrow.compute.greater(pyarrow.compute.utf8_length(ids), LONGEST_ID),
        )
        for value in ids.filter(strange).to_pylist():
            raise DmrecError(f"the ids of {side}s: {fault_of_id(value) or f'the id {value!r} cannot be one'}")


def _described(engine: Engine, side: str, *, with_texts: bool) -> Descriptions:
    for batch in engine.batches(statements.described(side, with_texts=with_texts)):
        yield batch.columns


def _rating_fault(engine: Engine, table: LargeTable) -> DmrecError:
    value, file = engine.row(statements.first_fault()) or ("", "")
    path, column = _path_of(file), table.columns["rating"]
    row = _row_with(path, column, value)
    where = f"in row {row} " if row else ""
    hint = "; with a decimal comma: --decimal ," if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", value) else ""
    return DmrecError(f"{path}, column {column}: '{value}' {where}is not a number{hint}")


def _row_with(path: Path, column: str, value: str | None) -> int | None:
    """The first row of a file with a value, for errors; None where it is not found early."""
    with contextlib.suppress(DmrecError):
        for number, record in zip(range(1, SEARCHED + 1), iterate_records(path), strict=False):
            found = record.get(column.lower())
            if found == value or str(found).lower() == str(value).lower() or (value is None and found == ""):
                return number
    return None


def _path_of(file: str) -> Path:
    """The path that an engine means, which may be a URL."""
    return Path(unquote(urlparse(file).path)) if file.startswith("file:") else Path(file)


@contextlib.contextmanager
def _scratch_of(folder: Path) -> Iterator[Path]:
    """An empty folder next to ``folder`` for as long as the context lasts."""
    scratch = folder.resolve().with_name(f".{folder.resolve().name}.importing")
    lock = scratch.with_suffix(".lock")
    with locked(lock, f"another process imports into {folder}"):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)

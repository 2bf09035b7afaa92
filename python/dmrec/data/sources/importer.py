"""Makes dataset folders from whatever holds interactions: one table, tables or matrices that are split already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ...errors import DmrecError, counted
from ...files import sha256_of
from ..arrays import check_vectors
from ..create import check_sources, create_dataset
from ..dataset import SPLITS, Dataset
from ..entities import Entity
from ..splits import COUNTS, EQUAL, Shares
from .descriptions import Review, may_have_reviews, no_common_id, read_all, read_reviews, read_those, reviews_of
from .dialect import FOUND_OUT, TableFormat
from .folders import read_folder
from .interactions import Interactions
from .matrices import MATRICES, read_matrix_file, read_vectors_file
from .preparation import SplitInteractions, join, prepare
from .sequence_layouts import read_lines
from .source import Source
from .tables import TABLES, read_interactions


def read_table(path: Path, columns: dict[str, str], given: TableFormat = FOUND_OUT) -> Source:
    """One table of interactions, with reviews where it has their texts."""
    found = read_interactions(path, columns, given)
    return Source(found, [path], reviews=_reviews(path, found), columns=columns)


def read_splits(paths: dict[str, Path], columns: dict[str, str], given: TableFormat = FOUND_OUT) -> Source:
    """Three files, by split: all of them matrices (.npz, .pkl), or all of them tables."""
    files = list(paths.values())
    if all(path.suffix in MATRICES for path in files):
        return Source({split: read_matrix_file(path) for split, path in paths.items()}, files)
    if not any(path.suffix in MATRICES for path in files):
        tables = {split: read_interactions(path, columns, given) for split, path in paths.items()}
        return Source(tables, files, reviews=_reviews(paths["train"], tables["train"]), columns=columns)
    known = ", ".join((*MATRICES, *TABLES))
    raise DmrecError(f"train, valid and test must be three matrices or three tables ({known})")


def _reviews(path: Path, found: Interactions) -> Iterable[Review]:
    return read_reviews(path, found.columns) if may_have_reviews(path) else ()


def assemble(
    source: Path | None,
    parts: dict[str, Path],
    columns: dict[str, str],
    *,
    items: Path | None = None,
    users: Path | None = None,
    reviews: Path | None = None,
    vectors: tuple[Path | None, Path | None] = (None, None),
    given: TableFormat = FOUND_OUT,
    sequences: bool = False,
) -> Source:
    """A source from files: one table or folder, or the three ``parts`` of a split by name, and what describes them.

    Args:
        columns: names of columns by role ("user", "item", "rating", "time"), where they are not the usual ones.
        vectors: files with vectors of items and of users, both or neither.
        given: how tables of interactions are written, where that is not to be found out.
        sequences: whether the table has a line for each user: the user, then the items.

    Raises:
        DmrecError: neither a table nor all parts are given, or a file cannot be read.
    """
    item_vectors, user_vectors = vectors
    if (item_vectors is None) != (user_vectors is None):
        raise DmrecError("give both --item-vectors and --user-vectors, or neither")
    if sequences:
        if source is None or parts:
            raise DmrecError("--sequences is for one file with a line for each user")
        found = read_lines(source)
    elif source is not None and not parts:
        found = read_folder(source, columns) if source.is_dir() else read_table(source, columns, given)
    elif source is None and len(parts) == len(SPLITS):
        found = read_splits(parts, columns, given)
    else:
        raise DmrecError("give either one table or folder, or all of --train, --valid and --test")
    further = [path for path in (items, users, reviews, item_vectors, user_vectors) if path is not None]
    found = replace(found, columns=columns, files=[*found.files, *further])
    if items is not None:
        found = replace(found, items=items)
    if users is not None:
        found = replace(found, users=users)
    if reviews is not None:
        found = replace(found, reviews=read_reviews(reviews, found.names))
    if item_vectors is not None and user_vectors is not None:
        found = replace(found, vectors=(read_vectors_file(item_vectors), read_vectors_file(user_vectors)))
    return found


def make_dataset(
    source: Source,
    folder: Path,
    *,
    name: str,
    min_rating: float = 3.0,
    k_core: int = 5,
    seed: int = 0,
    split: str = "random",
    repeats: str = "first",
    shares: Shares = EQUAL,
    vectors_name: str = "imported",
    notes: dict[str, Any] | None = None,
) -> Dataset:
    """Filters and splits what is not split, checks what is, writes it. ``notes`` go into the manifest."""
    check_sources(folder, source.files, vectors_name)
    provenance: dict[str, Any] = {"source": {path.name: sha256_of(path) for path in source.files}, **(notes or {})}
    match source.interactions:
        case Interactions() as table:
            prepared = prepare(
                table, min_rating=min_rating, k_core=k_core, split=split, repeats=repeats, seed=seed, shares=shares
            )
            provenance |= {"min_rating": min_rating, "k_core": k_core, "split": split, "repeats": repeats, "seed": seed}
            provenance |= {} if shares == EQUAL else {"held_out": shares._asdict()}
        case {"train": Interactions()} as tables:
            prepared = join(tables, min_rating=min_rating)
            provenance |= {"min_rating": min_rating, "split": "given"}
        case matrices:
            prepared = _of_matrices(matrices)
            provenance |= {"split": "given"}
    provenance |= prepared.report
    if notes := {table_name: table.notes for table_name, table in _named(source) if table.notes}:
        provenance["read"] = notes if len(notes) > 1 else next(iter(notes.values()))
    if unrated := sum(table.unrated for table in source.tables):
        provenance["rows_without_rating"] = unrated
    given = provenance["split"] == "given"
    _check_splits(prepared, SPLITS if given or shares.test else SPLITS[:2], given=given)
    n_users, n_items = prepared.splits["train"].shape
    all_items, unused_items = _described(source, "item", prepared.item_ids)
    all_users, unused_users = _described(source, "user", prepared.user_ids)
    provenance |= unused_items | unused_users
    items = _entities(all_items, prepared.item_ids, n_items, "item")
    users = _entities(all_users, prepared.user_ids, n_users, "user")
    vectors = source.vectors
    if vectors is not None and not source.has_row_ids:
        vectors = (
            _rows_of(vectors[0], all_items, prepared.item_ids, "item"),
            _rows_of(vectors[1], all_users, prepared.user_ids, "user"),
        )
    if vectors is not None:  # before a dataset in the folder is replaced
        check_vectors(*vectors, n_items, n_users)
    lowest = min_rating if source.tables and source.tables[0].rating is not None else None
    user_ids, item_ids = ([entity.id for entity in entities or ()] for entities in (users, items))
    reviews = reviews_of(prepared.splits["train"], user_ids, item_ids, source.reviews, lowest)
    dataset = create_dataset(
        folder,
        name,
        prepared.splits,
        items=items,
        users=users,
        reviews=reviews,
        sequences=prepared.sequences,
        provenance=provenance,
    )
    if vectors is not None:
        dataset.add_vectors(vectors_name, *vectors, {"source": provenance["source"]})
    for codes_name, codes in source.codes.items():
        dataset.add_codes(codes_name, *_codes_of(codes, prepared.item_ids), {"source": provenance["source"]})
    return dataset


def _codes_of(codes: dict[str, tuple[int, ...]], item_ids: Sequence[str]) -> tuple[np.ndarray, int]:
    """The codes of these items, and the number of codes of a level."""
    if without := [item for item in item_ids if item not in codes]:
        raise DmrecError(f"{len(without)} items have interactions and no codes, such as '{without[0]}'")
    found = np.array([codes[item] for item in item_ids], dtype=np.int64)
    return found, max(int(found.max()) + 1, 2)


def _named(source: Source) -> list[tuple[str, Interactions]]:
    """The tables of a source, by split if there are three."""
    names = list(source.interactions) if isinstance(source.interactions, dict) else ["interactions"]
    return list(zip(names, source.tables, strict=False))


def _of_matrices(matrices: dict[str, sp.csr_matrix]) -> SplitInteractions:
    """Matrices: users and items have numbers alone."""
    shapes = {split: matrix.shape for split, matrix in matrices.items()}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{split} {shape}" for split, shape in shapes.items())
        raise DmrecError(f"the matrices must have one shape, users x items, got {listed}")
    return SplitInteractions(matrices, [], [], {})


def _check_splits(prepared: SplitInteractions, wanted: Sequence[str], *, given: bool) -> None:
    splits = prepared.splits
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = splits[a].multiply(splits[b]).nnz
        if shared:
            raise DmrecError(f"in both {a} and {b}: {counted(shared, 'interaction')}; the splits must not overlap")
    for split in wanted:
        if splits[split].nnz == 0:
            why = (
                f"a user needs at least {len(wanted)} to be in all {COUNTS[len(wanted)]} splits; "
                "lower --min-rating, or import more interactions"
            )
            if given:
                why = "its file has none, or only ratings below --min-rating"
            elif moved := prepared.report.get("moved_to_train"):
                why = (
                    f"{moved} were chosen for validation and test, but their items have no other interaction and so "
                    "went back to training; import more interactions of each item, or choose another --split"
                )
            raise DmrecError(f"no interaction is left for {split}: {why}")


def _described(source: Source, kind: str, ids: Sequence[str]) -> tuple[Sequence[Entity] | None, dict[str, Any]]:
    """The descriptions, read if need be: all where rows of vectors or of matrices go with them, else those with these
    ids, and how many were not used.
    """
    given = source.items if kind == "item" else source.users
    if not isinstance(given, Path):
        return given, {}
    if source.has_row_ids or source.vectors is not None:
        return read_all(given, kind, source.names, ids_required=not source.has_row_ids), {}
    return read_those(given, kind, ids, source.names)


def _entities(given: Sequence[Entity] | None, ids: Sequence[str], count: int, kind: str) -> list[Entity] | None:
    """Those with these ids; without ids by number where they are numbered, else in their order."""
    if given is None:
        return [Entity(i) for i in ids] if ids else None
    known = {entity.id: entity for entity in given}
    if len(known) < len(given):
        (twice, _), *_ = Counter(entity.id for entity in given).most_common(1)
        raise DmrecError(f"the {kind} with id '{twice}' is described more than once")
    names = ids or [str(number) for number in range(count)]
    if not ids and len(given) == count and known.keys() != set(names):
        return list(given)
    if ids and known.keys().isdisjoint(ids):
        raise no_common_id(kind, ids[0], given[0].id)
    if not ids and (strange := known.keys() - set(names)):
        raise DmrecError(
            f"{len(given)} {kind}s are described and the matrices have {count}, so ids must be numbers from 0 to "
            f"{count - 1}: '{min(strange)}' is not; describe all in their order, or number them"
        )
    return [known.get(name, Entity(name)) for name in names]


def _rows_of(vectors: np.ndarray, entities: Sequence[Entity] | None, ids: Sequence[str], kind: str) -> np.ndarray:
    """The rows of those entities that the filters left, in their order."""
    if entities is None:
        raise DmrecError(
            f"whose are the rows of the {kind} vectors? Describe the {kind}s in the same order (--{kind}s)"
        )
    if len(vectors) != len(entities):
        raise DmrecError(f"{kind} vectors have {len(vectors)} rows, but {len(entities)} {kind}s are described")
    row_of = {entity.id: row for row, entity in enumerate(entities)}
    if missing := [i for i in ids if i not in row_of]:
        raise DmrecError(f"{len(missing)} {kind}s of the interactions have no vector, such as '{missing[0]}'")
    return vectors[[row_of[i] for i in ids]]

"""Makes dataset folders from tables of interactions and from matrices that are split already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError
from ..files import sha256_of
from .dataset import SPLITS, Dataset, Entity, create_dataset, read_entities, read_matrix
from .readers import read_interactions
from .split import prepare


def import_table(
    table: Path,
    folder: Path,
    *,
    name: str,
    columns: dict[str, str],
    min_rating: float,
    core: int,
    seed: int,
    items: Path | None,
    users: Path | None,
) -> Dataset:
    """From CSV, TSV or Parquet. Lines of ``items`` and ``users`` (JSON lines) are matched by their ``id``."""
    prepared = prepare(read_interactions(table, columns), min_rating=min_rating, core=core, seed=seed)
    made: dict[str, Any] = {
        "source": table.name,
        "sha256": sha256_of(table),
        "min_rating": min_rating,
        "k_core": core,
        "split": "3:1:1 at random per user",
        "seed": seed,
        **prepared.report,
    }
    return create_dataset(
        folder,
        name,
        prepared.splits,
        items=_described(prepared.item_ids, items),
        users=_described(prepared.user_ids, users),
        made=made,
    )


def import_matrices(
    matrices: dict[str, Path], folder: Path, *, name: str, items: Path | None, users: Path | None
) -> Dataset:
    """From three .npz files. Lines of ``items`` and ``users`` are in the order of columns and rows."""
    splits = {split: read_matrix(matrices[split]) for split in SPLITS}
    _check_splits(splits)
    return create_dataset(
        folder,
        name,
        splits,
        items=read_entities(items) if items else None,
        users=read_entities(users) if users else None,
        made={"source": {split: {"file": p.name, "sha256": sha256_of(p)} for split, p in matrices.items()}},
    )


def _described(ids: Sequence[str], path: Path | None) -> list[Entity]:
    if path is None:
        return [Entity(i) for i in ids]
    known = {entity.id: entity for entity in read_entities(path, ids_required=True)}
    if not any(i in known for i in ids):
        raise DmrecError(f"no line of {path} has an id of the interactions (they look like '{ids[0]}')")
    return [known.get(i, Entity(i)) for i in ids]


def _check_splits(splits: dict[str, sp.csr_matrix]) -> None:
    shapes = {split: matrix.shape for split, matrix in splits.items()}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{split} {shape}" for split, shape in shapes.items())
        raise DmrecError(f"the matrices must have one shape, users x items, got {listed}")
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = splits[a].multiply(splits[b]).nnz
        if shared:
            raise DmrecError(f"{shared} interactions are in both {a} and {b}: the splits must not overlap")
    if not np.diff(splits["train"].indptr).any():
        raise DmrecError("train holds no interaction")

"""Writes dataset folders."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError
from ..files import json_lines, sha256_of, write_atomically, write_json
from .arrays import as_interactions
from .dataset import FILES, FORMAT, MANIFEST, REVIEWS, SPLITS, Dataset, open_dataset
from .entities import Entity


def create_dataset(
    folder: Path,
    name: str,
    splits: dict[str, sp.csr_matrix],
    *,
    items: Sequence[Entity] | None = None,
    users: Sequence[Entity] | None = None,
    reviews: Iterable[tuple[int, int, str]] = (),
    provenance: dict[str, Any],
) -> Dataset:
    """Writes a dataset folder and opens it. ``provenance`` says how: source, filters, seed, terms of use.

    ``reviews``: user, item, text; only those of interactions in train are kept, so that nothing written from them knows
    what is held out. Profiles and text vectors of a dataset that stood there are no longer part of it.
    """
    n_users, n_items = splits["train"].shape
    files = {}
    for split in SPLITS:
        buffer = io.BytesIO()
        sp.save_npz(buffer, as_interactions(splits[split]))
        files[f"{split}.npz"] = buffer.getvalue()
    for side, entities, count in (("items", items, n_items), ("users", users, n_users)):
        if entities is not None:
            if len(entities) != count:
                raise DmrecError(f"{len(entities)} {side} are described, but the matrices have {count}")
            files[f"{side}.jsonl.gz"] = json_lines(e.row() for e in entities)
    if of_train := _reviews_of(splits["train"], reviews):
        files[REVIEWS] = json_lines({"user": u, "item": i, "text": text} for (u, i), text in sorted(of_train.items()))
    (folder / MANIFEST).unlink(missing_ok=True)  # from here on the old dataset is gone
    for leftover in folder.glob(".*.embedding"):
        shutil.rmtree(leftover)
    for stale in ("items.jsonl.gz", "users.jsonl.gz", REVIEWS):
        (folder / stale).unlink(missing_ok=True)
    for file_name, content in files.items():
        write_atomically(folder / file_name, content)
    manifest = {
        "format": FORMAT,
        "name": name,
        "users": n_users,
        "items": n_items,
        "interactions": {split: int(splits[split].nnz) for split in SPLITS},
        "made": provenance,
        "files": {f: {"bytes": len(content), "sha256": sha256_of(folder / f)} for f, content in files.items()},
        "vectors": {},
    }
    write_json(folder / MANIFEST, manifest)
    return open_dataset(folder)


def check_sources(folder: Path, sources: Iterable[Path], vectors: str | None = None) -> None:
    """No source is a file that a dataset in ``folder``, with vectors called so, would replace or remove."""
    names = FILES if vectors is None else (*FILES, f"items.{vectors}.npy", f"users.{vectors}.npy")
    written = {(folder / name).resolve() for name in names}
    for source in sources:
        if source.resolve() in written:
            raise DmrecError(
                f"{source} is a source and would be overwritten by the dataset; name another folder (--out)"
            )


def _reviews_of(train: sp.csr_matrix, reviews: Iterable[tuple[int, int, str]]) -> dict[tuple[int, int], str]:
    """Those of interactions in ``train``; of several the last."""
    given = [review for review in reviews if review[2]]
    entries, width = train.tocoo(), train.shape[1]
    place = np.array([user * width + item for user, item, _ in given], dtype=np.int64)
    known = np.isin(place, entries.row.astype(np.int64) * width + entries.col)
    return {(user, item): text for (user, item, text), there in zip(given, known, strict=True) if there}

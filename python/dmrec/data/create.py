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
from ..files import json_lines, read_json, sha256_of, write_atomically, write_json
from . import format1, format2
from .arrays import as_interactions, contains
from .dataset import FILES, MANIFEST, REVIEWS, SEQUENCES, SPLITS, Dataset, open_dataset
from .entities import Entity
from .sequences import Sequences, check_order, check_sequences
from .storage import SIDES


def create_dataset(
    folder: Path,
    name: str,
    splits: dict[str, sp.csr_matrix],
    *,
    items: Sequence[Entity] | None = None,
    users: Sequence[Entity] | None = None,
    reviews: Iterable[tuple[int, int, str]] = (),
    sequences: Sequences | None = None,
    provenance: dict[str, Any],
) -> Dataset:
    """Writes a dataset folder and opens it. Profiles and vectors of a dataset that it replaces are removed from it.

    Args:
        folder: where to write.
        name: the dataset's name.
        splits: "train", "valid" and "test", each users x items.
        items, users: descriptions in the order of columns and rows.
        reviews: row, column and text; only those of interactions in training are kept, so that nothing written from
            them knows what is held out.
        sequences: the order of the interactions of all three splits together.
        provenance: how the dataset was made: source, filters, split, seed, terms of use.

    Raises:
        DmrecError: descriptions or sequences do not fit the matrices; a dataset in ``folder`` is then as before.
    """
    check_dataset_name(name)
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
    if sequences is not None:
        check_sequences(sequences, n_users, n_items)
        check_order(sequences, [as_interactions(splits[split]) for split in SPLITS])
        files[SEQUENCES] = sequences.to_npz()
    remove_dataset(folder)
    for file_name, content in files.items():
        write_atomically(folder / file_name, content)
    manifest = {
        "format": format1.FORMAT,
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


def check_dataset_name(name: str) -> None:
    """Checks that a dataset's name can be that of a folder of runs."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise DmrecError(
            f"the dataset's name '{name}' cannot name a folder; use letters, digits, dots and dashes (--name)"
        )


def remove_dataset(folder: Path) -> None:
    """Removes the files of a dataset of either format, the manifest first; other files in its folder stay."""
    names, of_vectors = _named_files(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # from here on the old dataset is gone
    for leftover in folder.glob(".*.embedding"):
        shutil.rmtree(leftover)
    for name in (*FILES, format2.COUNTS, *names):
        (folder / name).unlink(missing_ok=True)
    for parts in (folder / name for name in (*format2.FOLDERS, *of_vectors)):
        for path in (*parts.glob("[0-9]" * 5 + ".*"), *parts.glob("." + "[0-9]" * 5 + ".*.tmp")):
            path.unlink()
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()


def _named_files(folder: Path) -> tuple[list[str], list[str]]:
    """The files of the profiles, vectors and codes of a dataset, by the names in its manifest, and the folders of parts
    of vectors.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        profiles, vectors, codes = (manifest.get(kind, {}) for kind in ("profiles", "vectors", "codes"))
    except (OSError, DmrecError, AttributeError):
        return [], []
    of_vectors = [Path(f"{side}.{name}").name for name in vectors for side in SIDES]
    files = [f"{side}.{name}.jsonl.gz" for name in profiles for side in SIDES]
    files += [file for name in codes for file in (f"items.{name}.codes.npy", f"tokenizer.{name}.safetensors")]
    files += [*(f"{name}.npy" for name in of_vectors), *(f"encoder.{name}.npz" for name in vectors)]
    return [Path(name).name for name in files], of_vectors


def check_free(folder: Path, replace: bool) -> None:
    """Checks that no dataset is in ``folder``, nor files that one would overwrite, unless they are to be replaced.

    Raises:
        DmrecError: there are, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DmrecError(f"{folder} is a file, and a dataset is a folder; name another one")
    if (folder / MANIFEST).exists() and not replace:
        raise DmrecError(
            f"{folder} holds a dataset; name another folder (--out) or replace it and its vectors (--force, in Python "
            "replace=True)"
        )
    there = [name for name in (*FILES, format2.COUNTS, *format2.FOLDERS) if (folder / name).exists()]
    if there and not replace:
        raise DmrecError(
            f"{folder} is not a dataset but holds {', '.join(there)}, which would be overwritten or removed; "
            "name another folder (--out), or replace them (--force, in Python replace=True)"
        )


def check_sources(folder: Path, sources: Iterable[Path], vectors: str | None = None) -> None:
    """Checks that no source is a file that a dataset in ``folder``, with ``vectors``, would replace or remove."""
    names = FILES if vectors is None else (*FILES, f"items.{vectors}.npy", f"users.{vectors}.npy")
    written = {(folder / name).resolve() for name in names}
    parts = {(folder / name).resolve() for name in format2.FOLDERS}
    for source in sources:
        if source.resolve() in written or source.resolve().parent in parts:
            raise DmrecError(
                f"{source} is a source and would be overwritten by the dataset; name another folder (--out)"
            )


def _reviews_of(train: sp.csr_matrix, reviews: Iterable[tuple[int, int, str]]) -> dict[tuple[int, int], str]:
    """The reviews of interactions in ``train``; of several of one interaction, the last."""
    given = [review for review in reviews if review[2]]
    rows, columns = (np.array([review[axis] for review in given], dtype=np.int64) for axis in (0, 1))
    known = contains(as_interactions(train), rows, columns)
    return {(user, item): text for (user, item, text), there in zip(given, known, strict=True) if there}

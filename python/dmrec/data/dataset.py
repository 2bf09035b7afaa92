"""A dataset is a folder.

``manifest.json``                    counts, checksums, how it was made; written last, so a folder with it is whole
``train.npz valid.npz test.npz``     scipy CSR matrices, users x items, ones
``items.jsonl.gz users.jsonl.gz``    optional: one JSON object a line in row order: ``id``, ``title``, ``text``
``items.NAME.npy users.NAME.npy``    optional: one vector a row, the texts' vectors called NAME
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError, did_you_mean
from ..files import read_json, sha256_of, write_atomically, write_json

SPLITS = ("train", "valid", "test")
FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entity:
    """A user or an item: its id in the source, a title to show, a text to embed (both may be empty)."""

    id: str
    title: str = ""
    text: str = ""

    @property
    def label(self) -> str:
        """What to call it."""
        return self.title or self.id


@dataclass(frozen=True)
class TextVectors:
    """Vectors of all items and users under one name; float16 or float32, one row each, mapped from disk."""

    name: str
    items: np.ndarray
    users: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder: matrices in memory, texts and vectors on request."""

    folder: Path
    manifest: dict[str, Any]
    train: sp.csr_matrix
    valid: sp.csr_matrix
    test: sp.csr_matrix

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.manifest["name"])

    @property
    def n_users(self) -> int:
        """Number of users."""
        return int(self.train.shape[0])

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.train.shape[1])

    @cached_property
    def items(self) -> list[Entity]:
        """All items in column order; without a file, their numbers."""
        return self._entities("items", self.n_items)

    @cached_property
    def users(self) -> list[Entity]:
        """All users in row order; without a file, their numbers."""
        return self._entities("users", self.n_users)

    @property
    def vector_names(self) -> list[str]:
        """Names of the text vectors that the folder holds."""
        return sorted(self.manifest.get("vectors", {}))

    def vectors(self, name: str | None = None) -> TextVectors:
        """The vectors called ``name``, or the only ones there are."""
        known = self.vector_names
        if not known:
            raise DmrecError(f"dataset {self.folder} has no text vectors; make some: dmrec data embed {self.folder}")
        if name is None:
            if len(known) > 1:
                raise DmrecError(
                    f"dataset {self.folder} has several text vectors ({', '.join(known)}); "
                    f"choose: --set language.vectors={known[0]}"
                )
            name = known[0]
        if name not in known:
            raise DmrecError(f"dataset {self.folder} has no vectors '{name}'{did_you_mean(name, known)}")
        sides = {}
        for side, count in (("items", self.n_items), ("users", self.n_users)):
            array = read_vectors(self.folder / f"{side}.{name}.npy")
            if array.shape[0] != count:
                raise DmrecError(f"{side}.{name}.npy has {array.shape[0]} rows, but the dataset has {count} {side}")
            sides[side] = array
        return TextVectors(name, **sides)

    def add_vectors(self, name: str, items: np.ndarray, users: np.ndarray, made: dict[str, Any]) -> None:
        """Stores vectors under ``name`` and notes in the manifest how they were made."""
        if items.shape[1:] != users.shape[1:] or items.ndim != 2:
            raise DmrecError(f"item vectors {items.shape} and user vectors {users.shape} must have one width")
        for side, array, count in (("items", items, self.n_items), ("users", users, self.n_users)):
            if array.shape[0] != count:
                raise DmrecError(f"{side} vectors have {array.shape[0]} rows, but the dataset has {count} {side}")
            if not np.isfinite(array).all():
                raise DmrecError(f"{side} vectors contain NaN or infinity")
        for side, array in (("items", items), ("users", users)):
            buffer = io.BytesIO()
            np.save(buffer, array.astype(np.float16))
            write_atomically(self.folder / f"{side}.{name}.npy", buffer.getvalue())
        entry = {"width": int(items.shape[1]), "made": made}
        self.manifest.setdefault("vectors", {})[name] = entry
        write_json(self.folder / MANIFEST, self.manifest)

    def _entities(self, side: str, count: int) -> list[Entity]:
        path = self.folder / f"{side}.jsonl.gz"
        if not path.exists():
            return [Entity(str(i)) for i in range(count)]
        entities = read_entities(path)
        if len(entities) != count:
            raise DmrecError(f"{path} has {len(entities)} lines, but the dataset has {count} {side}")
        return entities


def open_dataset(folder: Path) -> Dataset:
    """Opens a dataset folder; refuses one that is incomplete or whose matrices or texts differ from the manifest."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise DmrecError(f"{folder} is no folder; a small dataset to start with: dmrec data fetch ml-100k")
    if not (folder / MANIFEST).exists():
        raise DmrecError(f"{folder} is no dataset (no {MANIFEST}); make one with dmrec data import or dmrec data fetch")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DmrecError(f"{folder / MANIFEST}: format {manifest.get('format')} is not known here, only {FORMAT}")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.exists():
            raise DmrecError(f"{path} is missing; make the dataset again")
        if sha256_of(path) != expected["sha256"]:
            raise DmrecError(
                f"{path} differs from its checksum in {MANIFEST}: damaged or edited; make the dataset again"
            )
    splits = {split: read_matrix(folder / f"{split}.npz") for split in SPLITS}
    if len({matrix.shape for matrix in splits.values()}) != 1:
        raise DmrecError(f"the matrices of {folder} have different shapes")
    return Dataset(folder, manifest, **splits)


def create_dataset(
    folder: Path,
    name: str,
    splits: dict[str, sp.csr_matrix],
    *,
    items: Sequence[Entity] | None = None,
    users: Sequence[Entity] | None = None,
    made: dict[str, Any],
) -> Dataset:
    """Writes a dataset folder and opens it. ``made`` says how: source, filters, seed, terms of use."""
    n_users, n_items = splits["train"].shape
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {}
    for split in SPLITS:
        buffer = io.BytesIO()
        sp.save_npz(buffer, as_interactions(splits[split]))
        files[f"{split}.npz"] = buffer.getvalue()
    for side, entities, count in (("items", items, n_items), ("users", users, n_users)):
        if entities is None:
            (folder / f"{side}.jsonl.gz").unlink(missing_ok=True)
            continue
        if len(entities) != count:
            raise DmrecError(f"{len(entities)} {side} are described, but the matrices have {count}")
        lines = "".join(json.dumps(vars(e), ensure_ascii=False) + "\n" for e in entities)
        files[f"{side}.jsonl.gz"] = gzip.compress(lines.encode(), mtime=0)
    for file_name, content in files.items():
        write_atomically(folder / file_name, content)
    manifest = {
        "format": FORMAT,
        "name": name,
        "users": n_users,
        "items": n_items,
        "interactions": {split: int(splits[split].nnz) for split in SPLITS},
        "made": made,
        "files": {f: {"bytes": len(content), "sha256": sha256_of(folder / f)} for f, content in files.items()},
        "vectors": {},
    }
    write_json(folder / MANIFEST, manifest)
    return open_dataset(folder)


def as_interactions(matrix: sp.spmatrix) -> sp.csr_matrix:
    """The pattern of a matrix as float32 ones, columns sorted, no duplicates."""
    csr = sp.csr_matrix(matrix, dtype=np.float32)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    csr.data[:] = 1.0
    return csr


def read_matrix(path: Path) -> sp.csr_matrix:
    """A scipy sparse matrix from an .npz file, as interactions."""
    try:
        return as_interactions(sp.load_npz(path))
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except Exception as error:  # zipfile, numpy and scipy each raise their own
        raise DmrecError(f"{path} is no sparse matrix saved by scipy.sparse.save_npz ({error})") from None


def read_vectors(path: Path) -> np.ndarray:
    """A matrix from an .npy file, mapped rather than read; never unpickles."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError) as error:
        raise DmrecError(f"{path} is no .npy file of numbers ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise DmrecError(f"{path} must hold a matrix of floating-point numbers, got {array.dtype} {array.shape}")
    return array


def read_entities(path: Path) -> list[Entity]:
    """Users or items from JSON lines (gzip or plain). Texts are data: control characters go, length is capped."""
    entities = []
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DmrecError(f"{path}, line {number + 1}: must be a JSON object, got {type(row).__name__}")
                identity = next((row[key] for key in ("id", "iid", "uid") if key in row), number)
                entities.append(Entity(clean(identity), clean(row.get("title") or ""), clean(row.get("text") or "")))
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise DmrecError(f"{path}: not JSON lines ({error})") from None
    return entities


def clean(text: object, limit: int = 20_000) -> str:
    """``text`` as one line without control characters, at most ``limit`` characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)[:limit]).split())

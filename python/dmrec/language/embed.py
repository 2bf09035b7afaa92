"""From the texts of a dataset to its vectors: in shards, each whole on disk before the next is begun.

``.NAME.embedding/`` in the dataset holds them until all are done: ``about.json`` says of what, a file per shard and its
checksums say which are done. Interrupted, it goes on there; a shard is encoded by itself, so the vectors are the same
to the bit. Nothing is held in memory but one shard, whatever the number of texts.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset, check_name
from ..errors import DmrecError
from ..files import read_json, sha256_of, write_atomically, write_json
from .encoder import TextEncoder
from .encoders import save_encoder

SHARD = 2048  # texts
SIDES = ("items", "users")
Progress = Callable[[int], None]


def embed_dataset(
    dataset: Dataset,
    encoder: TextEncoder,
    *,
    profiles: str | None = None,
    name: str | None = None,
    progress: Progress = lambda done: None,
) -> str:
    """Encodes the texts of all items and users, or the profiles called so, and stores float16 unit vectors.

    They are called ``name``, which is returned; default: the encoder's name, and the profiles' after it. A row without
    text is zeros. ``progress`` is told how many texts are done.
    """
    name = check_name(name or "-".join(filter(None, (encoder.name, profiles))))
    for side in SIDES:
        if not any(dataset.texts(side, profiles)):
            raise DmrecError(f"dataset {dataset.folder} has no texts of its {side} to make vectors from")
    about = {"encoder": encoder.describe(), "profiles": profiles, "shard": SHARD}
    shards = Shards(dataset.folder / f".{name}.embedding", about)
    encoder.fit(text for text in chain(*(dataset.texts(side, profiles) for side in SIDES)) if text)
    made: dict[str, Any] = {"encoder": save_encoder(dataset, name, encoder), "profiles": profiles}
    done, joined = 0, []
    for side in SIDES:
        parts, empty = [], 0
        for number, texts in enumerate(batched(dataset.texts(side, profiles), SHARD)):
            file = f"{side}-{number:08d}.npy"
            if not shards.has(file, texts):
                shards.add(file, texts, _encode(encoder, texts))
            parts.append(file)
            done, empty = done + len(texts), empty + texts.count("")
            progress(done)
        made[f"{side}_without_text"] = empty
        joined.append(shards.joined(parts, f"{side}.npy"))
    items, users = joined
    dataset.add_vectors(name, items, users, made)
    shards.remove()
    return name


def batched(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of ``size`` texts; the last may be shorter."""
    remaining = iter(texts)
    while batch := list(islice(remaining, size)):
        yield batch


def _encode(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    """float16 unit vectors; zeros where there is no text."""
    there = [row for row, text in enumerate(texts) if text]
    vectors = encoder.encode([texts[row] for row in there] or [" "])
    if len(vectors) != max(len(there), 1) or not np.isfinite(vectors).all():
        raise DmrecError(f"the encoder {encoder.name} returned {vectors.shape}, NaN or infinity for {len(there)} texts")
    whole = np.zeros((len(texts), vectors.shape[1]), dtype=np.float16)
    whole[there] = vectors[: len(there)]
    return whole


class Shards:
    """Vectors of consecutive texts, a file each, and a line each that is written after it."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.log = folder, folder / "shards.jsonl"
        if not (folder / "about.json").exists() or read_json(folder / "about.json") != json.loads(json.dumps(about)):
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "about.json", about)
        self.known: dict[str, dict[str, str]] = {}
        if self.log.exists():
            for line in self.log.read_text().splitlines():
                if line.endswith("}"):  # else a crash cut it short
                    row = json.loads(line)
                    self.known[row["file"]] = row

    def has(self, file: str, texts: Sequence[str]) -> bool:
        """It is there, undamaged, and of these texts."""
        path, row = self.folder / file, self.known.get(file, {})
        return row.get("texts") == _digest(texts) and path.exists() and row["sha256"] == sha256_of(path)

    def add(self, file: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        """On disk when this returns."""
        path, buffer = self.folder / file, io.BytesIO()
        np.save(buffer, vectors)
        write_atomically(path, buffer.getbuffer())
        row = {"file": file, "texts": _digest(texts), "sha256": sha256_of(path)}
        with self.log.open("a") as log:
            log.write(f"\n{json.dumps(row)}")
        self.known[file] = row

    def joined(self, files: Sequence[str], into: str) -> np.ndarray:
        """These, one after another, mapped from disk."""
        parts = [np.load(self.folder / file, mmap_mode="r") for file in files]
        shape = (sum(map(len, parts)), parts[0].shape[1])
        whole = np.lib.format.open_memmap(self.folder / into, mode="w+", dtype=np.float16, shape=shape)
        np.concatenate(parts, out=whole)
        return whole

    def remove(self) -> None:
        """The vectors are elsewhere now."""
        shutil.rmtree(self.folder)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()

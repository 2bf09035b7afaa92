"""From the texts of a dataset to its vectors: in shards, each whole on disk before the next is begun.

``.NAME.embedding/`` in the dataset holds them until all are done: ``about.json`` says of what, a file per shard and its
checksums say which are done. Interrupted, it goes on there; a shard is encoded by itself, so the vectors are the same
to the bit. Nothing is held in memory but one shard, whatever the number of texts, and what an encoder learns from all
of them, which ``tfidf-svd`` alone does.
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
from ..files import locked, read_json, sha256_of, write_atomically, write_json
from .encoders.base import TextEncoder

SIDES = ("items", "users")
STATE = "state.npz"
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

    They are called ``name``, which is returned; default: `name_of`. A row without text is zeros. ``progress`` is told
    how many texts are done.
    """
    name = name_of(encoder, profiles, name)
    for side in SIDES:
        if not any(dataset.texts(side, profiles)):
            raise DmrecError(f"dataset {dataset.folder} has no texts of its {side} to make vectors from")
    about = {key: value for key, value in encoder.describe().items() if key != "key_variable"}
    about |= {"profiles": profiles, "shard": encoder.shard}
    if encoder.learns:
        about["texts"] = _digest(chain(*(dataset.texts(side, profiles) for side in SIDES)))
    folder = dataset.folder / f".{name}.embedding"
    with locked(folder.with_suffix(".lock"), f"another process makes the vectors '{name}' of {dataset.folder}"):
        shards = Shards(folder, about)
        if encoder.learns:
            shards.learned(encoder, (text for side in SIDES for text in dataset.texts(side, profiles) if text))
        made: dict[str, Any] = {"encoder": encoder.describe(), "profiles": profiles}
        done, joined = 0, []
        for side in SIDES:
            parts, empty = [], 0
            for number, texts in enumerate(batched(dataset.texts(side, profiles), encoder.shard)):
                file = f"{side}-{number:08d}.npy"
                if not shards.has(file, texts):
                    shards.add(file, texts, _encode(encoder, texts))
                parts.append(file)
                done, empty = done + len(texts), empty + texts.count("")
                progress(done)
            made[f"{side}_without_text"] = empty
            joined.append(shards.joined(parts, f"{side}.npy"))
        items, users = joined
        dataset.add_vectors(name, items, users, made, folder / STATE if encoder.learns else None)
        shards.remove()
    return name


def name_of(encoder: TextEncoder, profiles: str | None = None, name: str | None = None) -> str:
    """What vectors are called: ``name``, or the encoder's name, and that of the profiles after it."""
    return check_name(name or "-".join(filter(None, (encoder.name, profiles))))


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

    def learned(self, encoder: TextEncoder, texts: Iterable[str]) -> None:
        """Fits the encoder, or gives back what it had learned before it was interrupted."""
        path = self.folder / STATE
        if path.exists():
            with np.load(path, allow_pickle=False) as state:
                encoder.restore(dict(state))
            return
        encoder.fit(texts)
        buffer = io.BytesIO()
        np.savez(buffer, **encoder.state())  # type: ignore[arg-type]
        write_atomically(path, buffer.getvalue())

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
        with (self.folder / into).open("wb") as file:
            shapes = [np.load(self.folder / part, mmap_mode="r").shape for part in files]
            header = {"descr": "<f2", "fortran_order": False, "shape": (sum(n for n, _ in shapes), shapes[0][1])}
            np.lib.format.write_array_header_1_0(file, header)
            for part in files:
                file.write(np.load(self.folder / part).astype("<f2", copy=False).data)
        whole: np.ndarray = np.load(self.folder / into, mmap_mode="r")
        return whole

    def remove(self) -> None:
        """The vectors are elsewhere now."""
        shutil.rmtree(self.folder)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()

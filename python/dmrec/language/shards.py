"""Vectors on their way to a dataset: consecutive texts in shards, each complete on disk before the next is begun."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json, sha256_of, write_atomically, write_json
from .encoders import TextEncoder


class Shards:
    """A folder of shards that outlives an interruption.

    ``about.json`` says what the shards were made from; a folder that was made from anything else is emptied. Each shard
    is a file, and after it a line in ``shards.jsonl`` with the checksums of its texts and of the file.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.log, self.state = folder, folder / "shards.jsonl", folder / "state.npz"
        if not (folder / "about.json").exists() or read_json(folder / "about.json") != json.loads(json.dumps(about)):
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "about.json", about)
        self._written: dict[str, dict[str, str]] = {}
        if self.log.exists():
            for line in self.log.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # else a crash cut it short
                    row = json.loads(line)
                    self._written[row["file"]] = row

    def fit(self, encoder: TextEncoder, texts: Iterable[str]) -> None:
        """Fits the encoder and stores its state, or loads the state that was stored before an interruption."""
        if self.state.exists():
            with np.load(self.state, allow_pickle=False) as state:
                encoder.load_state_dict(dict(state))
            return
        encoder.fit(texts)
        buffer = io.BytesIO()
        np.savez(buffer, **encoder.state_dict())  # type: ignore[arg-type]
        write_atomically(self.state, buffer.getvalue())

    def has(self, file: str, texts: Sequence[str]) -> bool:
        """Whether the shard is on disk, undamaged and made from these texts."""
        path, row = self.folder / file, self._written.get(file, {})
        return row.get("texts") == digest_of(texts) and path.exists() and row["sha256"] == sha256_of(path)

    def add(self, file: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Writes a shard; it is on disk when this returns."""
        path, buffer = self.folder / file, io.BytesIO()
        np.save(buffer, vectors)
        write_atomically(path, buffer.getbuffer())
        row = {"file": file, "texts": digest_of(texts), "sha256": sha256_of(path)}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n{json.dumps(row)}")
        self._written[file] = row

    def concatenate(self, files: Sequence[str], into: str) -> np.ndarray:
        """The rows of these shards in one file, mapped from disk; (texts, width) float16."""
        with (self.folder / into).open("wb") as file:
            shapes = [np.load(self.folder / part, mmap_mode="r").shape for part in files]
            header = {"descr": "<f2", "fortran_order": False, "shape": (sum(n for n, _ in shapes), shapes[0][1])}
            np.lib.format.write_array_header_1_0(file, header)
            for part in files:
                file.write(np.load(self.folder / part).astype("<f2", copy=False).data)
        vectors: np.ndarray = np.load(self.folder / into, mmap_mode="r")
        return vectors

    def remove(self) -> None:
        """Deletes the folder, once the vectors are in the dataset."""
        shutil.rmtree(self.folder)


def digest_of(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()

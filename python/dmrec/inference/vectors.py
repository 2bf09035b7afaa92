"""Vectors that a model has of users and items, with their ids."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from ..errors import DmrecError
from ..files import replace_file, write_array


class Posterior(NamedTuple):
    """The Gaussians of users, one row each."""

    users: list[str]
    mean: np.ndarray  # (U, D) float32
    logvar: np.ndarray  # (U, D) float32, natural logarithm of the variance


class ItemVectors(NamedTuple):
    """Vectors of all items, for a nearest-neighbour index such as faiss."""

    items: list[str]
    vectors: np.ndarray  # (N, H) float32

    def save(self, path: str | Path) -> None:
        """Writes ``.npy``, or ``.safetensors`` with a tensor ``vectors``; the ids go to ``PATH.ids.txt``."""
        path = Path(path)
        if path.suffix == ".npy":
            replace_file(path, lambda temporary: write_array(temporary, self.vectors))
        elif path.suffix == ".safetensors":
            replace_file(path, lambda temporary: safetensors.numpy.save_file({"vectors": self.vectors}, temporary))
        else:
            raise DmrecError(f"{path}: item vectors are written as .npy or .safetensors")
        ids = "".join(f"{item}\n" for item in self.items)
        replace_file(path.with_name(f"{path.name}.ids.txt"), lambda temporary: _write_text(temporary, ids))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

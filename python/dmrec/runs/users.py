"""What a run keeps of every user that it was tested on (``users.npz``), from which metrics follow afterwards.

Arrays with an entry for each of the U users: ``user`` the row in the dataset, ``interactions`` and ``held_out`` how
many the model read of them and how many were to be found, ``hits`` (U, depth / 8) uint8 whether the item at each rank
was one of these, eight ranks a byte, ``depth`` the number of ranks; and the values of each measured metric by its name.
"""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DmrecError
from ..eval.metrics import METRICS, parse_metric
from ..eval.ranking import Evaluation
from ..files import write_atomically

DEPTH = 100
"""How many ranks are kept, of models that rank as many as quickly as few."""


class TestedUsers:
    """The users that a run was tested on, and how well they were served."""

    __test__ = False  # no tests, whatever pytest makes of the name

    def __init__(self, path: Path) -> None:
        """From a file that `save_users` wrote; each array is read when it is asked for."""
        self._path = path
        with np.load(path) as arrays:
            self._names = set(arrays.files)
        self._read: dict[str, np.ndarray] = {}  # what was asked for

    @property
    def user(self) -> np.ndarray:
        """(U,) rows in the dataset, ascending."""
        return self._kept("user")

    @property
    def interactions(self) -> np.ndarray:
        """(U,) how many interactions the model read of each.

        Raises:
            DmrecError: the run was made by a version that did not keep this.
        """
        return self._kept("interactions")

    @cached_property
    def hits(self) -> Tensor:
        """(U, depth) float64: 1 where the item at a rank was held out.

        Raises:
            DmrecError: the run was made by a version that did not keep this.
        """
        depth = int(self._kept("depth"))
        return torch.from_numpy(np.unpackbits(self._kept("hits"), axis=1, count=depth)).double()

    def keeps(self, name: str) -> bool:
        """Whether the file has this array; those of earlier versions have fewer."""
        return name in self._names

    def measures(self, metric: str) -> bool:
        """Whether each user's value is known, or follows from the ranks that were kept."""
        kind, k = parse_metric(metric)
        return self.keeps(metric) or (kind in METRICS and self.keeps("depth") and k <= int(self._kept("depth")))

    def values(self, metric: str) -> np.ndarray:
        """(U,) the metric of each user.

        Raises:
            DmrecError: it was not measured, and too few ranks were kept to compute it.
        """
        if self.keeps(metric):
            return self._kept(metric)
        if not self.measures(metric):
            raise DmrecError(f"{self._path} does not tell '{metric}': measure it again with dmrec evaluate --metric")
        kind, k = parse_metric(metric)
        return METRICS[kind](self.hits, torch.from_numpy(self._kept("held_out")), k).numpy()

    def _kept(self, name: str) -> np.ndarray:
        if not self.keeps(name):
            raise DmrecError(f"{self._path} has no '{name}': the run was made by an earlier version; train it again")
        if name not in self._read:
            with np.load(self._path) as arrays:
                self._read[name] = np.asarray(arrays[name])
        return self._read[name]


def save_users(path: Path, tested: Evaluation, interactions: Tensor) -> None:
    """Writes what is kept of the tested users. ``interactions`` (U,): how many the model read of each."""
    buffer = io.BytesIO()
    kept = {"user": tested.users, "interactions": interactions, "held_out": tested.n_held_out}
    arrays = {name: tensor.numpy() for name, tensor in (kept | tested.values).items()}
    hits, depth = np.packbits(tested.hits.numpy(), axis=1), np.array(tested.hits.shape[1])
    np.savez_compressed(buffer, hits=hits, depth=depth, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getbuffer())

"""What the formats of datasets have in common: the names of files, and what each format can read and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from dmrec_ext import Csr

from .entities import Entity
from .interactions import Interactions

SPLITS = ("train", "valid", "test")
SIDES = ("items", "users")
MANIFEST = "manifest.json"


class Storage(Protocol):
    """How a folder holds interactions, descriptions and vectors; ``side`` is "items" or "users"."""

    @property
    def n_users(self) -> int:
        """Number of users."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    def interactions(self, split: str) -> Interactions | None:
        """The interactions of a split, of which rows are read from disk; None where `csr` has them anyway."""

    def csr(self, split: str) -> Csr:
        """All interactions of a split, in memory."""

    def matrix(self, split: str) -> sp.csr_matrix:
        """`csr` as a scipy matrix: float32 ones, columns sorted."""

    def item_counts(self) -> np.ndarray:
        """(items,) int64: how many training interactions each item has."""

    def entities(self, side: str) -> list[Entity]:
        """All items or users in row order; without a file, their numbers."""

    def names(self, side: str, columns: list[str], rows: range | None = None) -> Any:
        """An Arrow table with some of the columns ``id``, ``title`` and ``text`` of these rows, by default of all."""

    def find(self, side: str, ids: Sequence[str]) -> dict[str, int] | None:
        """The rows of those of ``ids`` that are there; None where `entities` have them in memory anyway."""

    def ids_at(self, side: str, rows: np.ndarray) -> list[str] | None:
        """The ids of these rows; None where `entities` have them in memory anyway."""

    def texts(self, side: str) -> Iterator[str]:
        """Their texts in row order, one at a time; empty where there is none."""

    def read_vectors(self, name: str, noted: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors called ``name``, or what reads like them, of items and of users.

        ``noted``: what the manifest holds of them, `write_vectors` among it.
        """

    def write_vectors(self, name: str, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
        """Stores vectors of each side; returns what is to be noted of their files, ``sha256`` of each side among it."""

    def fingerprint(self) -> dict[str, str]:
        """Checksums of the interactions, by name."""

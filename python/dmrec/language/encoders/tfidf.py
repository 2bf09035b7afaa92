"""Text vectors without a language model: TF-IDF, reduced by a truncated SVD (latent semantic analysis).

It knows which words texts share, and nothing of what words mean. Its space is that of the texts it was fitted to; it is
kept, so that other texts can be placed in it later. Fitting holds 8 bytes for every different word of every text.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from ...errors import DmrecError
from .base import TextEncoder, unit

WORD = re.compile(r"[^\W_]+")
MOST_WORDS = 200_000  # those in most texts


class TfidfSvd(TextEncoder):
    """Unit vectors of at most ``width`` dimensions. Words in fewer than ``min_texts`` texts are left out."""

    family = "tfidf-svd"
    learns = True

    def __init__(self, width: int = 128, min_texts: int = 2, seed: int = 0) -> None:
        self.width, self.min_texts, self.seed = width, min_texts, seed
        self._column: dict[str, int] = {}
        self._weight = np.zeros(0)  # (words,)
        self._projection = np.zeros((0, 0))  # (words, width)

    def options(self) -> dict[str, Any]:
        """Width, threshold, seed."""
        return {"width": self.width, "min_texts": self.min_texts, "seed": self.seed}

    def fit(self, texts: Iterable[str]) -> None:
        """Counts words, weighs them by rarity, finds the directions in which the texts differ most."""
        known: dict[str, int] = {}
        columns, counts, ends = array("i"), array("f"), array("q", [0])
        for text in texts:
            for word, count in Counter(WORD.findall(text.lower())).items():
                columns.append(known.setdefault(word, len(known)))
                counts.append(count)
            ends.append(len(columns))
        n_texts = len(ends) - 1
        frequency = np.bincount(np.array(columns, dtype=np.int64), minlength=len(known))
        names = np.array(list(known), dtype=object)
        kept = np.flatnonzero(frequency >= self.min_texts)
        kept = kept[np.argsort(-frequency[kept], kind="stable")[:MOST_WORDS]]
        kept = kept[np.argsort(names[kept])]
        self._column = {str(word): i for i, word in enumerate(names[kept])}
        self._weight = np.log(n_texts / frequency[kept])
        parts = (np.array(counts), np.array(columns), np.array(ends))
        matrix = self._scaled(sp.csr_matrix(parts, shape=(n_texts, len(known)))[:, kept])
        width = min(self.width, n_texts - 1, len(kept) - 1)
        if width < 1 or matrix.count_nonzero() == 0:
            raise DmrecError(
                f"TF-IDF needs more text: {n_texts} texts share {len(kept)} words, or all share all of them"
            )
        start = np.random.default_rng(self.seed).standard_normal(min(matrix.shape))
        _, _, right = svds(matrix, k=width, v0=start)
        # the sign of a singular vector is arbitrary: its largest entry is made positive, of equal ones the first
        size = np.abs(right)
        first = (size > (1 - 1e-6) * size.max(axis=1, keepdims=True)).argmax(axis=1)
        sign = np.sign(right[np.arange(width), first])
        self._projection = (right.T * sign)[:, ::-1]  # the largest singular value first

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors; a text without a known word gives zeros."""
        return unit(self._weighted([Counter(WORD.findall(text.lower())) for text in texts]) @ self._projection)

    def state(self) -> dict[str, np.ndarray]:
        """Words, weights, projection."""
        words = np.frombuffer("\n".join(self._column).encode(), dtype=np.uint8)
        return {"words": words, "weight": self._weight, "projection": np.ascontiguousarray(self._projection)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The space that was fitted."""
        words = state["words"].tobytes().decode().split("\n")
        self._column = {word: i for i, word in enumerate(words)}
        self._weight, self._projection = state["weight"], state["projection"]

    def _weighted(self, counts: Sequence[Counter[str]]) -> sp.csr_matrix:
        known = self._column
        entries = [(row, known[w], n) for row, c in enumerate(counts) for w, n in c.items() if w in known]
        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        shape = (len(counts), len(known))
        return self._scaled(sp.csr_matrix((np.array(values, dtype=np.float64), (rows, columns)), shape=shape))

    def _scaled(self, matrix: sp.csr_matrix) -> sp.csr_matrix:
        """Counts of words to unit rows: (1 + log count) times the words' weights."""
        matrix = matrix.astype(np.float64)
        matrix.data = 1 + np.log(matrix.data)
        matrix = sp.csr_matrix(matrix @ sp.diags(self._weight))
        return sp.csr_matrix(sp.diags(1 / np.maximum(sp.linalg.norm(matrix, axis=1), 1e-12)) @ matrix)

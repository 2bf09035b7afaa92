"""Text vectors without a language model: TF-IDF, reduced by a truncated SVD (latent semantic analysis).

It knows which words texts share, and nothing of what words mean. Its space is that of the texts it was fitted to; it is
kept, so that other texts can be placed in it later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from ..errors import DmrecError
from .encoder import TextEncoder, unit

WORD = re.compile(r"[^\W_]+")


class TfidfSvd(TextEncoder):
    """Unit vectors of at most ``width`` dimensions. Words in fewer than ``min_texts`` texts are left out."""

    family = "tfidf-svd"

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
        counts = [Counter(WORD.findall(text.lower())) for text in texts]
        frequency = Counter(word for count in counts for word in count)
        words = sorted(word for word, n in frequency.items() if n >= self.min_texts)
        width = min(self.width, len(counts) - 1, len(words) - 1)
        if width < 1:
            raise DmrecError(f"TF-IDF needs more text: {len(counts)} texts share {len(words)} words")
        self._column = {word: i for i, word in enumerate(words)}
        self._weight = np.log(len(counts) / np.array([frequency[word] for word in words]))
        matrix = self._weighted(counts)
        start = np.random.default_rng(self.seed).standard_normal(min(matrix.shape))
        _, _, right = svds(matrix, k=width, v0=start)
        # the sign of a singular vector is arbitrary: fix it by its largest entry, so that it is nobody's rounding
        sign = np.sign(right[np.arange(width), np.abs(right).argmax(axis=1)])
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
        """Unit rows: (1 + log count) times the words' weights."""
        known = self._column
        entries = [(row, known[w], 1 + np.log(n)) for row, c in enumerate(counts) for w, n in c.items() if w in known]
        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        weighted = np.array(values, dtype=np.float64) * self._weight[np.array(columns, dtype=np.int64)]
        matrix = sp.csr_matrix((weighted, (rows, columns)), shape=(len(counts), len(known)))
        return sp.csr_matrix(sp.diags(1 / np.maximum(sp.linalg.norm(matrix, axis=1), 1e-12)) @ matrix)

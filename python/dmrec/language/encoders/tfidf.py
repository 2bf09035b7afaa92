"""Text vectors without a language model: TF-IDF, reduced by a truncated SVD (latent semantic analysis).

The vectors reflect which words texts share; they do not know what words mean. The space depends on the texts that the
encoder was fitted to and is stored, so that other texts can be placed in it later. Fitting holds 8 bytes for every
different word of every text.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from ...errors import DmrecError
from .base import TextEncoder, l2_normalize
from .registry import register_encoder

WORD = re.compile(r"[^\W_]+")
MAX_FEATURES = 200_000  # words that are kept, those in most texts


@register_encoder
class TfidfSvd(TextEncoder):
    """Unit vectors of at most ``width`` dimensions.

    Args:
        width: number of dimensions; fewer where the texts do not span as many.
        min_df: words in fewer texts than this are left out.
        seed: seed of the vector from which the SVD starts.
    """

    family = "tfidf-svd"
    requires_fit = True
    manifest_keys: ClassVar[Mapping[str, str]] = MappingProxyType({"min_df": "min_texts"})

    def __init__(self, width: int = 128, min_df: int = 2, seed: int = 0) -> None:
        self.width, self.min_df, self.seed = width, min_df, seed
        self._column: dict[str, int] = {}
        self._idf = np.zeros(0)  # (words,)
        self._projection = np.zeros((0, 0))  # (words, width)

    def fit(self, texts: Iterable[str]) -> None:
        """Counts words, weights them by their inverse document frequency, and computes the truncated SVD.

        Raises:
            DmrecError: the texts share fewer than two words, or all of them share all words.
        """
        known: dict[str, int] = {}
        columns, counts, ends = array("i"), array("f"), array("q", [0])
        for text in texts:
            for word, count in Counter(WORD.findall(text.lower())).items():
                columns.append(known.setdefault(word, len(known)))
                counts.append(count)
            ends.append(len(columns))
        n_texts = len(ends) - 1
        document_frequency = np.bincount(np.array(columns, dtype=np.int64), minlength=len(known))
        names = np.array(list(known), dtype=object)
        kept = np.flatnonzero(document_frequency >= self.min_df)
        kept = kept[np.argsort(-document_frequency[kept], kind="stable")[:MAX_FEATURES]]
        kept = kept[np.argsort(names[kept])]
        self._column = {str(word): i for i, word in enumerate(names[kept])}
        self._idf = np.log(n_texts / document_frequency[kept])
        parts = (np.array(counts), np.array(columns), np.array(ends))
        matrix = self._scaled(sp.csr_matrix(parts, shape=(n_texts, len(known)))[:, kept])
        width = min(self.width, n_texts - 1, len(kept) - 1)
        if width < 1 or matrix.count_nonzero() == 0:
            raise DmrecError(
                f"TF-IDF needs more text: {n_texts} texts share {len(kept)} words, or all of them share all words"
            )
        start = np.random.default_rng(self.seed).standard_normal(min(matrix.shape))
        _, _, right = svds(matrix, k=width, v0=start)
        # the sign of a singular vector is arbitrary: its largest entry is made positive, the first one among equals
        size = np.abs(right)
        first = (size > (1 - 1e-6) * size.max(axis=1, keepdims=True)).argmax(axis=1)
        sign = np.sign(right[np.arange(width), first])
        self._projection = (right.T * sign)[:, ::-1]  # largest singular value first

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors; a text without a known word gives zeros."""
        return l2_normalize(self._tfidf([Counter(WORD.findall(text.lower())) for text in texts]) @ self._projection)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Words, inverse document frequencies and projection."""
        words = np.frombuffer("\n".join(self._column).encode(), dtype=np.uint8)
        return {"words": words, "weight": self._idf, "projection": np.ascontiguousarray(self._projection)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """The space of a fitted encoder."""
        words = state["words"].tobytes().decode().split("\n")
        self._column = {word: i for i, word in enumerate(words)}
        self._idf, self._projection = state["weight"], state["projection"]

    def _tfidf(self, counts: Sequence[Counter[str]]) -> sp.csr_matrix:
        known = self._column
        entries = [(row, known[w], n) for row, c in enumerate(counts) for w, n in c.items() if w in known]
        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        shape = (len(counts), len(known))
        return self._scaled(sp.csr_matrix((np.array(values, dtype=np.float64), (rows, columns)), shape=shape))

    def _scaled(self, matrix: sp.csr_matrix) -> sp.csr_matrix:
        """Unit rows of (1 + log count) * idf from counts of words."""
        matrix = matrix.astype(np.float64)
        matrix.data = 1 + np.log(matrix.data)
        matrix = sp.csr_matrix(matrix @ sp.diags(self._idf))
        return sp.csr_matrix(sp.diags(1 / np.maximum(sp.linalg.norm(matrix, axis=1), 1e-12)) @ matrix)

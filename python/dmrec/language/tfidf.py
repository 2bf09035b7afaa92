"""Text vectors without a language model: TF-IDF, reduced by a truncated SVD (latent semantic analysis).

It knows which words texts share, and nothing of what words mean.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from ..errors import DmrecError

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class TfidfSvd:
    """Unit vectors of at most ``width`` dimensions. Words in fewer than ``min_texts`` texts are left out."""

    width: int = 128
    min_texts: int = 2
    seed: int = 0

    @property
    def name(self) -> str:
        """``tfidf-svd``."""
        return "tfidf-svd"

    def describe(self) -> dict[str, Any]:
        """How the vectors are made."""
        return {"encoder": "TF-IDF of words, truncated SVD; no language model", **vars(self)}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors; a text without a known word gives zeros."""
        counts = [Counter(WORD.findall(text.lower())) for text in texts]
        frequency = Counter(word for count in counts for word in count)
        words = sorted(word for word, n in frequency.items() if n >= self.min_texts)
        column = {word: i for i, word in enumerate(words)}
        entries = [(row, column[w], 1 + np.log(n)) for row, c in enumerate(counts) for w, n in c.items() if w in column]
        width = min(self.width, len(texts) - 1, len(words) - 1)
        if width < 1:
            raise DmrecError(f"TF-IDF needs more text: {len(texts)} texts share {len(words)} words")
        rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
        weight = np.log(len(texts) / np.array([frequency[word] for word in words]))
        matrix = sp.csr_matrix((values * weight[columns], (rows, columns)), shape=(len(texts), len(words)))
        matrix = sp.diags(1 / np.maximum(sp.linalg.norm(matrix, axis=1), 1e-12)) @ matrix
        start = np.random.default_rng(self.seed).standard_normal(min(matrix.shape))
        left, scale, right = svds(matrix, k=width, v0=start)
        # the sign of a singular vector is arbitrary: fix it by its largest entry, so that it is nobody's rounding
        sign = np.sign(right[np.arange(width), np.abs(right).argmax(axis=1)])
        vectors = (left * scale * sign)[:, ::-1]  # the largest singular value first
        norm = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(norm > 1e-9, vectors / np.maximum(norm, 1e-9), 0).astype(np.float32)

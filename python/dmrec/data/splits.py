"""Splits interactions into training, validation and test."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def split_per_user(matrix: sp.csr_matrix, seed: int) -> tuple[dict[str, sp.csr_matrix], int]:
    """A fifth of each user's interactions at random for validation, a fifth for test, rounded; the rest to train.

    Held-out interactions with an item that has none in training go back to training; their number is returned.
    """
    matrix = matrix.tocsr()
    counts = np.diff(matrix.indptr)
    row = np.repeat(np.arange(matrix.shape[0]), counts)
    order = np.lexsort((np.random.default_rng(seed).random(matrix.nnz), row))
    position = np.empty(matrix.nnz, dtype=np.int64)
    position[order] = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    held_out = np.rint(counts * 0.2).astype(np.int64)[row]
    part = np.where(position < held_out, 1, np.where(position < 2 * held_out, 2, 0))
    seen = np.zeros(matrix.shape[1], dtype=bool)
    seen[matrix.indices[part == 0]] = True
    unseen = (part > 0) & ~seen[matrix.indices]
    part[unseen] = 0
    splits = {}
    for number, name in enumerate(("train", "valid", "test")):
        chosen = part == number
        entries = (np.ones(int(chosen.sum()), dtype=np.float32), (row[chosen], matrix.indices[chosen]))
        splits[name] = sp.csr_matrix(entries, shape=matrix.shape)
    return splits, int(unseen.sum())

"""Collaborative vectors of items from the order of interactions alone: for tokenizers without text."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from ..data.dataset import Dataset

WINDOW = 3


def cooccurrence_vectors(dataset: Dataset, width: int = 128) -> np.ndarray:
    """(N, width) float32 unit vectors: truncated SVD of the positive pointwise mutual information of items that occur
    within 3 places of each other in training histories. Deterministic. Zeros for an item that occurs with no other.
    """
    histories = dataset.sequence("train")
    items, row = histories.items.astype(np.int64), histories.row_of_entry()
    counts = sp.csr_matrix((dataset.n_items, dataset.n_items))
    for step in range(1, WINDOW + 1):
        same = row[step:] == row[:-step]
        pairs = (items[:-step][same], items[step:][same])
        counts = counts + sp.csr_matrix((np.ones(len(pairs[0])), pairs), shape=counts.shape)
    counts = sp.coo_matrix(counts + counts.T)
    total, marginal = counts.sum(), np.asarray(counts.sum(0)).ravel()
    value = np.log(counts.data * total / (marginal[counts.row] * marginal[counts.col]))
    keep = value > 0
    ppmi = sp.csr_matrix((value[keep], (counts.row[keep], counts.col[keep])), shape=counts.shape)
    width = min(width, dataset.n_items - 1)
    u, s, _ = svds(ppmi, k=width, v0=np.ones(dataset.n_items) / np.sqrt(dataset.n_items), solver="arpack")
    order = np.argsort(-s, kind="stable")
    vectors = u[:, order] * np.sqrt(s[order])
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    vectors *= np.where(signs == 0, 1, signs)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 1e-12), dtype=np.float32)

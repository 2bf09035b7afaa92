"""A catalogue made by a random process, of any size: what large ones cost can be measured without having one.

Popularity of items falls as rank^-0.9. Items belong to clusters; a user likes one to three of them and takes four
fifths of the interactions there, by popularity, the rest anywhere. Vectors of items lie around the centre of their
cluster, those of users around the mean of theirs, as texts about them would: cosine to the own centre some 0.7.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from .create import create_dataset
from .dataset import Dataset
from .splits import split_per_user

VECTORS = "synthetic"


def make_catalogue(
    folder: Path,
    *,
    n_users: int,
    n_items: int,
    interactions_per_user: int = 25,
    n_clusters: int = 64,
    width: int = 64,
    held_out_users: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Writes a dataset with float32 vectors called ``synthetic``.

    Only the first ``held_out_users`` keep validation and test interactions (default: all), so that evaluation may be
    smaller than training.
    """
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, n_items + 1) ** 0.9
    cluster = rng.integers(0, n_clusters, n_items)
    members = [np.flatnonzero(cluster == c) for c in range(n_clusters)]
    cumulative = [np.cumsum(weights[m]) for m in members]
    everywhere = np.cumsum(weights)

    tastes = [rng.choice(n_clusters, rng.integers(1, 4), replace=False) for _ in range(n_users)]
    rows, cols = [], []
    for user, likes in enumerate(tastes):
        count = max(5, int(rng.lognormal(np.log(interactions_per_user), 0.6)))
        chosen = rng.choice(likes, count)
        anywhere = rng.random(count) < 0.2
        points = rng.random(count)
        items = np.searchsorted(everywhere, points * everywhere[-1]).clip(max=n_items - 1)
        for c in likes:
            own = (chosen == c) & ~anywhere
            if len(members[c]):
                place = np.searchsorted(cumulative[c], points[own] * cumulative[c][-1]).clip(max=len(members[c]) - 1)
                items[own] = members[c][place]
        cols.append(np.unique(items))
        rows.append(np.full(len(cols[-1]), user))
    ones = np.ones(sum(map(len, cols)), dtype=np.float32)
    matrix = sp.csr_matrix((ones, (np.concatenate(rows), np.concatenate(cols))), shape=(n_users, n_items))
    splits, _ = split_per_user(matrix, seed)
    if held_out_users is not None:
        kept = sp.diags((np.arange(n_users) < held_out_users).astype(np.float32))
        splits = {name: m if name == "train" else (kept @ m).tocsr() for name, m in splits.items()}
        for part in splits.values():
            part.eliminate_zeros()

    made = {"source": "dmrec.data.synthetic", "seed": seed, "clusters": n_clusters}
    dataset = create_dataset(folder, f"synthetic-{n_items}", splits, provenance=made)
    centres = rng.standard_normal((n_clusters, width), dtype=np.float32)
    of_users = np.stack([centres[likes].mean(0) for likes in tastes])
    dataset.add_vectors(VECTORS, _around(centres[cluster], rng), _around(of_users, rng), made)
    return dataset


def _around(centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors near the rows of ``centres``."""
    vectors = centres + rng.standard_normal(centres.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors

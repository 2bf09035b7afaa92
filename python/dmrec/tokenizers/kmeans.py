"""k-means whose result depends on its seed alone: not on threads, and not on how rows are grouped."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from dmrec_ext import rank_topk


def nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) int64: the nearest row of ``centres`` (C, D) for each row of ``x`` (n, D); of several, the first.

    The largest x c - |c|^2 / 2, which `rank_topk` ranks by products in float64 of one fixed order.
    """
    rows, codes = torch.from_numpy(np.asarray(x, dtype=np.float64)), torch.from_numpy(np.asarray(centres, np.float64))
    found = rank_topk(rows, codes, 1, bias=-0.5 * codes.square().sum(1))[1]
    return np.asarray(found.squeeze(1).numpy())


def nearest_balanced(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) int64: a row of ``centres`` (C, D) for each row of ``x`` (n, D), each for at most ceil(n / C) of them.

    In rounds: each row that has no centre asks the nearest one with places left, and a centre takes those that are
    nearest, of equals the first.
    """
    n, n_centres = len(x), len(centres)
    codes, places = np.full(n, -1), np.full(n_centres, -(-n // n_centres))
    while len(waiting := np.flatnonzero(codes < 0)):
        free = np.flatnonzero(places)
        wanted = free[nearest(x[waiting], centres[free])]
        distance = ((x[waiting] - centres[wanted]) ** 2).sum(1)
        order = np.lexsort((distance, wanted))  # stable: of equals the first
        by_centre = wanted[order]
        rank = np.arange(len(order)) - np.searchsorted(by_centre, by_centre)
        taken = order[rank < places[by_centre]]
        codes[waiting[taken]] = wanted[taken]
        places -= np.bincount(wanted[taken], minlength=n_centres)
    return codes


def kmeans(x: np.ndarray, n_centres: int, seed: int, iterations: int = 100, *, balanced: bool = False) -> np.ndarray:
    """(n_centres, D) float64 centres of the rows of ``x`` (n, D): Lloyd's algorithm from a k-means++ start.

    ``balanced``: rows are assigned by `nearest_balanced`. A centre that loses all its rows moves to the row that is
    farthest from its own. With no more distinct rows than centres, the remaining centres repeat the first row.
    """
    x = np.asarray(x, dtype=np.float64)
    centres = _plus_plus(x, n_centres, np.random.default_rng(seed))
    codes, assign = np.full(len(x), -1), nearest_balanced if balanced else nearest
    for _ in range(iterations):
        before, codes = codes, assign(x, centres)
        if np.array_equal(before, codes):
            break
        centres, counts = means_by_code(x, codes, n_centres)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            error = ((x - centres[codes]) ** 2).sum(1)
            farthest = np.argsort(-error, kind="stable")[: len(empty)]
            centres[empty[: len(farthest)]] = x[farthest]
    return centres


def means_by_code(x: np.ndarray, codes: np.ndarray, n_centres: int) -> tuple[np.ndarray, np.ndarray]:
    """The means (n_centres, D) of the rows with each code, zeros where there is none, and their numbers."""
    n = len(x)
    member = sp.csr_matrix((np.ones(n), codes, np.arange(n + 1)), shape=(n, n_centres)).T.tocsr()
    counts = np.bincount(codes, minlength=n_centres)
    return np.asarray(member @ x) / np.maximum(counts, 1)[:, None], counts


def _plus_plus(x: np.ndarray, n_centres: int, random: np.random.Generator) -> np.ndarray:
    """Rows drawn one after the other, with probabilities in proportion to their squared distance to those before: of
    several that are drawn each time, the one that lowers the sum of the distances most.
    """
    trials = 2 + int(np.log(n_centres))
    norm = np.einsum("ij,ij->i", x, x)
    chosen = [int(random.integers(len(x)))]
    distance = ((x - x[chosen[0]]) ** 2).sum(1)
    for _ in range(n_centres - 1):
        total = np.cumsum(distance)
        if total[-1] <= 0:  # all rows are centres
            chosen.append(chosen[0])
            continue
        drawn = np.minimum(np.searchsorted(total, random.random(trials) * total[-1], side="right"), len(x) - 1)
        to_drawn = norm[:, None] - 2 * np.einsum("ij,kj->ik", x, x[drawn]) + norm[drawn]
        lower = np.minimum(distance[:, None], np.maximum(to_drawn, 0))
        best = int(lower.sum(0).argmin())
        distance = lower[:, best]
        chosen.append(int(drawn[best]))
    return x[chosen].copy()

"""Metrics of what lists show, whether or not it is held out, and of whole rankings.

``novelty@k`` and ``diversity@k`` are those of a user's list, ``coverage@k`` and ``gini@k`` of the lists of all users
together, ``auc`` of a whole ranking. Popularity and likeness of items come from the interactions that models read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..models.base import TrainingData


class Catalogue:
    """Items as the interactions that models read show them."""

    def __init__(self, data: TrainingData) -> None:
        self.n_users, self.n_items, self._data = data.n_users, data.n_items, data

    @cached_property
    def information(self) -> Tensor:
        """(N,) float64: -log2 of the share of users who have the item; of one user for items that nobody has."""
        counts = self._data.item_counts().cpu().clamp_min(1)
        return -(counts.double() / max(self.n_users, 1)).log2()

    @cached_property
    def of_unit_length(self) -> sp.csr_matrix:
        """(N, M): each item's users, as a vector of length 1; of length 0 for items that nobody has."""
        interactions = self._data.interactions.rows(torch.arange(self.n_users))
        items = interactions._replace(values=None).to("cpu").to_scipy().T.tocsr().astype(np.float64)
        lengths = np.sqrt(np.diff(items.indptr))
        return sp.diags(1 / np.maximum(lengths, 1)) @ items


def novelty(ids: Tensor, catalogue: Catalogue) -> Tensor:
    """(B,) the mean over the list (B, k) of -log2 of the share of users who have an item (Zhou et al., PNAS 2010)."""
    shown = ids >= 0
    information = torch.where(shown, catalogue.information[ids.clamp_min(0)], 0.0)
    return information.sum(1) / shown.sum(1).clamp_min(1)


def diversity(ids: Tensor, catalogue: Catalogue) -> Tensor:
    """(B,) the mean over pairs of the list (B, k) of 1 - the cosine of the sets of users who have either item.

    Intra-list distance, Ziegler et al., WWW 2005; 0 for lists of fewer than two items.
    """
    shown = (ids >= 0).numpy()
    counts = shown.sum(1)
    chosen = sp.csr_matrix(
        (np.ones(counts.sum()), ids.numpy()[shown], np.concatenate([[0], np.cumsum(counts)])),
        shape=(len(ids), catalogue.n_items),
    )
    vectors = catalogue.of_unit_length
    square_of_sum = np.asarray((chosen @ vectors).power(2).sum(axis=1)).ravel()
    squares = chosen @ np.asarray(vectors.power(2).sum(axis=1)).ravel()
    pairs = counts * (counts - 1)
    mean_cosine = (square_of_sum - squares) / np.maximum(pairs, 1)
    return torch.from_numpy(np.where(pairs > 0, 1 - mean_cosine, 0.0))


def coverage(counts: Tensor) -> float:
    """The share of items that are in at least one list; ``counts`` (N,): in how many an item is."""
    return float((counts > 0).double().mean())


def gini(counts: Tensor) -> float:
    """Gini's coefficient of how often items are shown: 0 where all are shown as often, towards 1 where few are."""
    n, total = len(counts), float(counts.sum())
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    if not total:
        return 0.0
    return float(2 * (ranks * counts.double().sort().values).sum() / (n * total) - (n + 1) / n)


def auc(hit: Tensor, ids: Tensor) -> Tensor:
    """(B,) the share of pairs of a held-out item and another one that the whole ranking has in this order.

    Args:
        hit: (B, N) float64, 1 where the item at a rank is held out.
        ids: (B, N), -1 for padding; a model that does not rank all items has those it leaves out below the others.
    """
    ranked = (ids >= 0).double()
    positives, candidates = hit.sum(1), ranked.sum(1)
    below = candidates[:, None] - ranked.cumsum(1)  # candidates after this rank
    hits_below = positives[:, None] - hit.cumsum(1)
    right = (hit * (below - hits_below)).sum(1)
    return right / (positives * (candidates - positives)).clamp_min(1)


OF_LISTS: dict[str, Callable[[Tensor, Catalogue], Tensor]] = {"novelty": novelty, "diversity": diversity}
OF_ALL: dict[str, Callable[[Tensor], float]] = {"coverage": coverage, "gini": gini}
AUC = "auc"

"""Ranking metrics of one user each, from the ranked ids and the held-out items.

With h_r = 1 where the item at rank r (from 1) is held out, else 0, and n the number of the user's held-out items. All
equal trec_eval's where it has them (its recall, P, success, ndcg_cut, recip_rank, map_cut) but for the order of ties,
which is the ranking's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from dmrec_ext import Csr

from ..errors import DmrecError, did_you_mean
from .lists import AUC, OF_ALL, OF_LISTS


def hits(ids: Tensor, held_out: Csr) -> Tensor:
    """(B, k) float64: 1 where a ranked id (B, k) is among the row's held-out items; padding (-1) never is."""
    n = held_out.n_cols
    wanted = held_out.row_of_entry() * n + held_out.col  # ascending: rows and columns are
    rows = torch.arange(ids.shape[0]).unsqueeze(1)
    key = torch.where(ids >= 0, rows * n + ids, -1)
    if wanted.numel() == 0:
        return torch.zeros(ids.shape, dtype=torch.float64)
    place = torch.searchsorted(wanted, key).clamp_max(wanted.numel() - 1)
    return (wanted[place] == key).double()


def expected_hits(ids: Tensor, held_out: Csr, tied: Tensor, excluded: Csr | None = None) -> Tensor:
    """(B, k) float64: the mean of `hits` over all orders of items that always have equal scores.

    At each rank that an item of a group has, it is the share of the group's items that are held out.

    Args:
        ids: (B, k) ranked items, those of a group next to each other; -1 for padding.
        held_out: (B, N), none of them excluded.
        tied: (N,) int64, equal for the items of a group, from 0 without gaps.
        excluded: (B, N) items that were not ranked.
    """
    n_groups = int(tied.max()) + 1
    group = tied[ids.clamp_min(0)]
    size = tied.bincount(minlength=n_groups)[group].double()
    row = torch.arange(ids.shape[0]).unsqueeze(1)

    def members(of: Csr) -> Tensor:
        """(B, k): how many items of each row are in the group."""
        keys, counts = torch.unique(of.row_of_entry() * n_groups + tied[of.col], return_counts=True)
        if not len(keys):
            return torch.zeros(ids.shape, dtype=torch.float64)
        place = torch.searchsorted(keys, row * n_groups + group).clamp_max(len(keys) - 1)
        return torch.where(keys[place] == row * n_groups + group, counts[place], 0).double()

    left = size if excluded is None else size - members(excluded)
    return torch.where(ids >= 0, members(held_out) / left.clamp_min(1), 0.0)


def recall(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """Recall@k = sum_{r <= k} h_r / n."""
    return hit[:, :k].sum(1) / n_held_out


def precision(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """Precision@k = sum_{r <= k} h_r / k, also where fewer than k items could be ranked."""
    return hit[:, :k].sum(1) / k


def hit_rate(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """Hit@k = 1 if any of the first k is held out, else 0."""
    return hit[:, :k].amax(1)


def ndcg(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """NDCG@k = sum_{r <= k} h_r / log2(r + 1), divided by its value where the first min(k, n) ranks hit."""
    discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    ideal = discount.cumsum(0)[n_held_out.clamp_max(k) - 1]
    return (hit[:, :k] * discount).sum(1) / ideal


def mrr(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """MRR@k = 1 / the first rank r <= k with h_r = 1; 0 without."""
    ranks = torch.arange(1, k + 1, dtype=torch.float64)
    return (hit[:, :k] / ranks).amax(1)


def average_precision(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """MAP@k: sum_{r <= k} h_r Precision@r / n. Divided by all held-out items, not by min(k, n) as some do."""
    ranks = torch.arange(1, k + 1, dtype=torch.float64)
    first = hit[:, :k]
    return (first * first.cumsum(1) / ranks).sum(1) / n_held_out


Metric = Callable[[Tensor, Tensor, int], Tensor]
METRICS: dict[str, Metric] = {
    "recall": recall,
    "precision": precision,
    "hit": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}
"""Those of a user that follow from the hits; their mean over users is reported."""

LINEAR = ("recall", "precision", "ndcg")
"""Sums over ranks: their mean over orders is their value for the mean of the hits."""


def register_metric(name: str) -> Callable[[Metric], Metric]:
    """Makes a function a metric that can be asked for by ``name@k``, wherever the others can.

    The function takes ``hit`` (B, depth) float64, 1 where the item at a rank is held out, ``n_held_out`` (B,) int64 and
    k, and returns (B,) float64.

    >>> @register_metric("first")
    ... def first(hit, n_held_out, k):
    ...     return hit[:, 0]
    >>> del METRICS["first"]

    Raises:
        DmrecError: there is a metric of this name, or it is not a word.
    """
    if not re.fullmatch(r"\w+", name) or name in known_metrics():
        raise DmrecError(f"'{name}' cannot name a metric: use letters, digits and underscores, and no known name")

    def register(function: Metric) -> Metric:
        METRICS[name] = function
        return function

    return register


def known_metrics() -> tuple[str, ...]:
    """The names of all metrics, without k."""
    return (*METRICS, *OF_LISTS, *OF_ALL, AUC)


def parse_metric(name: str) -> tuple[str, int]:
    """``"recall@20"`` to its parts; ``auc``, of whole rankings, has 0 for k."""
    if name == AUC:
        return AUC, 0
    match = re.fullmatch(r"(\w+)@([1-9]\d*)", name)
    if match is None or match[1] == AUC:
        raise DmrecError(f"'{name}' is not a metric; write it like recall@20, or auc")
    if match[1] not in known_metrics():
        raise DmrecError(f"'{match[1]}' is not a metric{did_you_mean(match[1], known_metrics())}")
    return match[1], int(match[2])

"""Ranking metrics of one user each, from the ranked ids and the held-out items."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from dmrec_ext import Csr

from ..errors import DmrecError, did_you_mean


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


def recall(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """Recall@k = hits among the first k / number of held-out items."""
    return hit[:, :k].sum(1) / n_held_out


def ndcg(hit: Tensor, n_held_out: Tensor, k: int) -> Tensor:
    """NDCG@k = sum_r hit_r / log2(r + 1), divided by its value where the first min(k, held-out) ranks hit."""
    discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    ideal = discount.cumsum(0)[n_held_out.clamp_max(k) - 1]
    return (hit[:, :k] * discount).sum(1) / ideal


METRICS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"recall": recall, "ndcg": ndcg}


def parse_metric(name: str) -> tuple[str, int]:
    """``"recall@20"`` to its parts."""
    match = re.fullmatch(r"(\w+)@([1-9]\d*)", name)
    if match is None:
        raise DmrecError(f"'{name}' is no metric; write it like recall@20")
    if match[1] not in METRICS:
        raise DmrecError(f"'{match[1]}' is no metric{did_you_mean(match[1], METRICS)}")
    return match[1], int(match[2])

"""Full-ranking evaluation: every item is scored for every user, training items left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmrec_ext import Csr

from .metrics import METRICS, hits, parse_metric

USERS_PER_BLOCK = 1024  # fixed: products differ in their last bits with the number of rows


class Ranker(Protocol):
    """Ranks all items for users."""

    def rank(self, x: Csr, users: Tensor, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """Scores and ids (B, k) of the best items of ``users`` (B,) with interactions ``x`` (B, N)."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Mean of each metric over the users that have held-out items, and their number."""

    means: dict[str, float]
    n_users: int


def blocks(users: Tensor) -> Iterator[Tensor]:
    """Users in blocks of one size."""
    return iter(users.split(USERS_PER_BLOCK))


def evaluate(ranker: Ranker, train: Csr, held_out: Csr, metrics: Sequence[str]) -> Evaluation:
    """Ranks all items but the training items of each user that has held-out items; means over those users."""
    parts = [parse_metric(name) for name in metrics]
    depth = max(k for _, k in parts)
    users = held_out.crow.diff().nonzero().squeeze(1)
    totals = torch.zeros(len(parts), dtype=torch.float64)
    for block in blocks(users):
        x = train.rows(block)
        _, ids = ranker.rank(x, block, depth, exclude=x)
        wanted = held_out.rows(block)
        hit, count = hits(ids, wanted), wanted.crow.diff()
        totals += torch.stack([METRICS[name](hit, count, k).sum() for name, k in parts])
    means = totals / max(len(users), 1)
    return Evaluation(dict(zip(metrics, means.tolist(), strict=True)), len(users))

"""Full-ranking evaluation: every item is ranked for every user, without the user's training items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..models.base import Model, TrainingData, evaluating
from ..runtime import move
from .lists import AUC, OF_ALL, OF_LISTS, Catalogue, auc
from .metrics import LINEAR, METRICS, expected_hits, hits, parse_metric

USERS_PER_BLOCK = 1024  # fixed: products differ in their last bits with the number of rows


@dataclass(frozen=True)
class Evaluation:
    """The metrics of the users that have held-out items."""

    means: dict[str, float]  # by metric
    users: Tensor  # (U,) int64, ascending
    values: dict[str, Tensor]  # of each user, by metric: (U,) float64
    n_held_out: Tensor  # (U,)
    hits: Tensor  # (U, depth) bool: whether the item at each rank is held out
    random_ties: dict[str, float]  # means of recall, precision, ndcg over all orders of tied items; empty without such

    @property
    def n_users(self) -> int:
        """How many users have held-out items."""
        return len(self.users)

    def means_of(self, chosen: Tensor) -> dict[str, float]:
        """Means over the users for whom ``chosen`` (U,) is true, for metrics that single users have."""
        return {name: mean(values[chosen]) for name, values in self.values.items()}


def mean(values: Tensor) -> float:
    """The mean, rounded once: the same bits in any order. 0 where there are no values."""
    return math.fsum(value for part in values.split(1 << 20) for value in part.tolist()) / max(len(values), 1)


def sample(users: Tensor, count: int | None) -> Tensor:
    """``count`` of the users (U,) int64, ascending: always the same, those with the smallest hashes; None: all."""
    if count is None or count >= len(users):
        return users
    x = users.numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)  # splitmix64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    chosen = np.argpartition(x ^ (x >> np.uint64(31)), count)[:count]
    return users[torch.from_numpy(np.sort(chosen))]


def blocks(users: Tensor) -> Iterator[Tensor]:
    """Users in blocks of one size."""
    return iter(users.split(USERS_PER_BLOCK))


def union(a: Csr, b: Csr) -> Csr:
    """(B, N): entries that either has, without values; columns rise in each row."""
    keys = [each.row_of_entry() * each.n_cols + each.col for each in (a, b)]
    entries = torch.cat(keys).unique()
    counts = torch.bincount(entries // a.n_cols, minlength=a.n_rows)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Csr(crow, entries % a.n_cols, None, a.n_cols)


def mean_nll(model: Model, data: TrainingData, held_out: Csr) -> float:
    """The mean negative log-likelihood of held-out items, in nats, each as the next one of its user; no search is made.

    Arguments as for `evaluate`.
    """
    users, parts = held_out.crow.diff().nonzero().squeeze(1), [torch.zeros(0, dtype=torch.float64)]
    with evaluating(model):
        for block in blocks(users):
            batch, items = move((data.users(block), held_out.rows(block)), model.device)
            parts.append(-model.log_likelihood(batch, items).double().cpu())
    return mean(torch.cat(parts))


def evaluate(
    model: Model,
    data: TrainingData,
    held_out: Csr,
    metrics: Sequence[str],
    *,
    exclude_seen: bool = True,
    exclude: Csr | None = None,
    depth: int = 0,
    n_users: int | None = None,
) -> Evaluation:
    """Ranks all items for each user that has held-out items, without those that the model reads of the user.

    Args:
        model: on any device; its mode is restored afterwards.
        data: the training data of the model, on the CPU.
        held_out: (M, N) held-out interactions, on the CPU.
        metrics: names such as ``"recall@20"``.
        exclude_seen: False to rank also what the model reads of a user, as is usual for the next item of a sequence.
        exclude: (M, N) further items that are not ranked, none of them held out, on the CPU.
        depth: how many items are ranked, if more than the metrics need.
        n_users: how many of the users are measured, see `sample`; None: all.

    Returns:
        Metrics of each user and their means. They do not depend on the number of users in a block or in all.
    """
    parts = {name: parse_metric(name) for name in metrics}
    kept = max(depth, *(k for _, k in parts.values()))  # not of whole rankings: users x items
    depth = max(kept, data.n_items) if any(kind == AUC for kind, _ in parts.values()) else kept
    users = sample(held_out.crow.diff().nonzero().squeeze(1), n_users)
    tied = None if model.tied_items is None else model.tied_items.cpu()
    linear = [] if tied is None else [name for name, (kind, _) in parts.items() if kind in LINEAR]
    over_orders: dict[str, list[Tensor]] = {name: [] for name in linear}
    values: dict[str, list[Tensor]] = {name: [] for name, (kind, _) in parts.items() if kind not in OF_ALL}
    all_hits = [torch.zeros(0, kept, dtype=torch.bool)]
    shown = {name: torch.zeros(data.n_items, dtype=torch.int64) for name, (kind, _) in parts.items() if kind in OF_ALL}
    catalogue = Catalogue(data)
    with evaluating(model):
        for block in blocks(users):
            batch = move(data.users(block), model.device)
            seen = batch.interactions if exclude_seen else None
            if exclude is not None:
                further = move(exclude.rows(block), model.device)
                seen = further if seen is None else union(seen, further)
            ids = model.rank(batch, depth, exclude=seen)[1].cpu()
            wanted = held_out.rows(block)
            hit, count = hits(ids, wanted), wanted.crow.diff()
            all_hits.append(hit[:, :kept].bool())
            for name, of_users in values.items():
                kind, k = parts[name]
                if kind in OF_LISTS:
                    of_users.append(OF_LISTS[kind](ids[:, :k], catalogue))
                else:
                    of_users.append(auc(hit, ids) if kind == AUC else METRICS[kind](hit, count, k))
            if tied is not None:
                expected = expected_hits(ids, wanted, tied, None if seen is None else move(seen, torch.device("cpu")))
                for name, of_users in over_orders.items():
                    kind, k = parts[name]
                    of_users.append(METRICS[kind](expected, count, k))
            for name, counts in shown.items():
                first = ids[:, : parts[name][1]]
                counts += first[first >= 0].bincount(minlength=data.n_items)
    nothing = torch.zeros(0, dtype=torch.float64)
    of_user = {name: torch.cat([nothing, *of_users]) for name, of_users in values.items()}
    of_all = {name: OF_ALL[parts[name][0]](counts) for name, counts in shown.items()}
    means = {name: mean(of_user[name]) if name in of_user else of_all[name] for name in metrics}
    random_ties = {name: mean(torch.cat([nothing, *of_users])) for name, of_users in over_orders.items()}
    return Evaluation(means, users, of_user, held_out.crow.diff()[users], torch.cat(all_hits), random_ties)

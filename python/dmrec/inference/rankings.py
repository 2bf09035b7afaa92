"""Rankings that were made elsewhere, measured by the same code on the same users as ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..data.dataset import Dataset
from ..data.sources.tables import read_interactions
from ..errors import DmrecError
from ..models.base import Model, UserBatch


class GivenRankings(Model):
    """A ranked list for each user of a dataset, of any length; a user without one is served nothing."""

    order: Tensor  # (rows,) item numbers, user by user, best first

    def __init__(self, users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.crow = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))])
        self.register_buffer("order", torch.from_numpy(items))

    @property
    def n_served(self) -> int:
        """How many users have a list."""
        return int((np.diff(self.crow) > 0).sum())

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The first k items of each list that are not excluded; scores are minus the ranks."""
        if batch.ids is None:
            raise DmrecError("rankings know the users of the dataset alone")
        ids = torch.full((batch.size, k), -1)
        for row, user in enumerate(batch.ids.tolist()):
            mine = self.order[self.crow[user] : self.crow[user + 1]]
            if exclude is not None:
                mine = mine[~torch.isin(mine, exclude.col[exclude.crow[row] : exclude.crow[row + 1]])]
            ids[row, : min(k, len(mine))] = mine[:k]
        ranks = -torch.arange(1, k + 1, dtype=torch.float32).expand(batch.size, k)
        return torch.where(ids >= 0, ranks, -torch.inf), ids


def read_rankings(path: Path, dataset: Dataset, score: str = "score") -> GivenRankings:
    """Lists from a table with the columns user and item, in ids of the dataset, and a score.

    Args:
        path: a delimited table, JSON lines or Parquet, as for `dmrec data import`.
        dataset: the users and items.
        score: the column by whose falling values a user's rows are ranked, equal ones in the order of the file; "none":
            all are in the order of the file.

    Raises:
        DmrecError: the table cannot be read, names a user or item that the dataset does not have, or ranks an item
            twice for a user.
    """
    found = read_interactions(path, {"rating": score, "time": "none"})
    sides = []
    for side, ids, known in (("user", found.user, dataset.users), ("item", found.item, dataset.items)):
        number = {entity.id: i for i, entity in enumerate(known)}
        numbers = np.array([number.get(str(name), -1) for name in ids.names.tolist()] or [-1])
        if (unknown := np.flatnonzero(numbers < 0)).size and len(ids.names):
            name = str(ids.names[unknown[0]])
            raise DmrecError(f"{path}: dataset {dataset.name} has no {side} '{name}' ({len(unknown)} are unknown)")
        sides.append(np.where(ids.codes >= 0, numbers[ids.codes], -1))
    users, items = (side[(sides[0] >= 0) & (sides[1] >= 0)] for side in sides)
    scores = np.zeros(len(users)) if found.rating is None else -found.rating[(sides[0] >= 0) & (sides[1] >= 0)]
    order = np.lexsort((np.arange(len(users)), scores, users))
    users, items = users[order], items[order]
    pairs = users * dataset.n_items + items
    if len(np.unique(pairs)) < len(pairs):
        values, counts = np.unique(pairs, return_counts=True)
        user, item = divmod(int(values[counts > 1][0]), dataset.n_items)
        twice = f"item '{dataset.items[item].id}' twice for user '{dataset.users[user].id}'"
        raise DmrecError(f"{path} ranks {twice}: each item may be in a list once")
    return GivenRankings(users, items, dataset.n_users, dataset.n_items)

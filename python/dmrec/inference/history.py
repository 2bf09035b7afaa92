"""Interactions that came after training, read together with those that models were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..eval.ranking import union
from ..models.base import Histories, TrainingData


class _WithAdded:
    """Interactions and further ones of a few users, of which rows are read: those of very many users stay on disk.

    Args:
        known: (M, N) interactions.
        users: (U,) int64, ascending.
        added: (U, N) what these users have besides.
    """

    def __init__(self, known: Csr, users: Tensor, added: Csr) -> None:
        self._known, self._users = known, users
        self._added = added._replace(crow=torch.cat([added.crow, added.crow[-1:]]))  # an empty row for all others
        self.n_rows, self.n_cols, self.nnz = known.n_rows, known.n_cols, known.nnz + added.nnz

    def rows(self, index: Tensor) -> Csr:
        place = torch.searchsorted(self._users, index)
        own = torch.where(torch.isin(index, self._users), place, len(self._users))
        return union(self._known.rows(index), self._added.rows(own))


def with_history(data: TrainingData, new: Sequence[tuple[int, int]]) -> TrainingData:
    """``data`` with further interactions (row, column), a user's oldest first. What is there already stays once.

    Rows of its interactions can be read, which need not be a matrix in memory.
    """
    users, items = (torch.tensor([pair[side] for pair in new], dtype=torch.int64) for side in (0, 1))
    n = data.n_items
    who, place = users.unique(return_inverse=True)
    known = data.interactions.rows(who)
    key = place * n + items
    first = torch.zeros(len(key), dtype=torch.bool)
    first[torch.from_numpy(np.unique(key.numpy(), return_index=True)[1])] = True
    fresh = first & ~torch.isin(key, known.row_of_entry() * n + known.col)
    counts = torch.bincount(place[fresh], minlength=len(who))
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    added = Csr(crow, key[fresh].sort().values % n, None, n)
    histories = data.histories
    if histories is not None:
        lengths = histories.indptr.diff()
        rows = torch.cat([torch.arange(data.n_users).repeat_interleave(lengths), users[fresh]])
        together = torch.cat([histories.items, items[fresh]])[rows.argsort(stable=True)]
        lengths = lengths.index_add(0, who, counts)
        histories = Histories(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), together)
    interactions = cast(Csr, _WithAdded(data.interactions, who, added))
    return data._replace(interactions=interactions, histories=histories)

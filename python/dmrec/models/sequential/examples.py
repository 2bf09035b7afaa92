"""Training examples of the next item: each interaction of a user but the first, with those before it."""

from __future__ import annotations

import torch
from torch import Tensor

from dmrec_ext import Csr

from ..base import Histories


class NextItemExamples:
    """The examples of all users, numbered by user and time; formed when they are asked for.

    Args:
        histories: the training interactions.
        length: the most items of a history.
    """

    def __init__(self, histories: Histories, length: int) -> None:
        self.histories, self.length = histories, length
        counts = (histories.indptr.diff() - 1).clamp_min(0)
        self.first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])  # example of each user

    def __len__(self) -> int:
        return int(self.first[-1])

    def targets(self, index: Tensor) -> Tensor:
        """(B,) the items of examples ``index``."""
        return self.histories.items[self._place(index)[1]]

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Users (B,), histories (B, T) oldest first and filled up with -1, and targets (B,) of examples ``index``."""
        user, target = self._place(index)
        begin = torch.maximum(self.histories.indptr[user], target - self.length)
        longest = int((target - begin).max()) if len(index) else 0
        place = begin[:, None] + torch.arange(longest)
        there = place < target[:, None]
        history = torch.where(there, self.histories.items[place.clamp_max(len(self.histories.items) - 1)], -1)
        return user, history, self.histories.items[target]

    def _place(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) the users of examples, and the places of their targets among all interactions."""
        user = torch.searchsorted(self.first, index, right=True) - 1
        return user, self.histories.indptr[user] + 1 + index - self.first[user]


def last_items(sequences: Tensor, count: int) -> Tensor:
    """(B, <= count) the last items of rows (B, S) that are filled up with -1, filled up as well."""
    length = (sequences >= 0).sum(1)
    longest = min(sequences.shape[1], count)
    begin = (length - count).clamp_min(0)
    place = begin[:, None] + torch.arange(max(longest, 1), device=sequences.device)
    padded = torch.nn.functional.pad(sequences, (0, 1), value=-1)
    return padded.gather(1, place.clamp_max(sequences.shape[1]))


def interactions_of(history: Tensor, n_items: int) -> Csr:
    """(B, n_items): the items of histories (B, T) that are filled up with -1, without order; the host waits."""
    ordered = history.sort(1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    there = first & (ordered >= 0) & (ordered < n_items)
    crow = torch.cat([there.new_zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    return Csr(crow, ordered[there], None, n_items)

"""Interactions, each with items that its user has none with: what models over a graph learn from."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dmrec_ext import Csr

Sampling = Literal["interactions", "users"]
TABLE = 1 << 27  # bytes of a table of all pairs; where it would be larger, pairs are searched for in a list
ROUNDS = 20  # of drawing negatives again, before they are drawn from a list of what the user has not


class Pairs(NamedTuple):
    """Interactions and negatives; int64."""

    user: Tensor  # (B,)
    item: Tensor  # (B,)
    negative: Tensor  # (B,), or (B, number of negatives) where there are several
    users: Tensor | None = None  # each user of the batch once, ascending, where the model asks for it
    items: Tensor | None = None  # each item, negatives left out


class PairSampler:
    """Draws pairs, on the CPU.

    An example is an interaction; with ``by="users"`` it is a user, each as often as any other, with one of the user's
    items at random. An epoch has as many examples as there are interactions either way.
    """

    def __init__(
        self, interactions: Csr, by: Sampling = "interactions", negatives: int = 1, *, distinct: bool = False
    ) -> None:
        self.n_users, self.n_items, self.by, self.negatives = interactions.n_rows, interactions.n_cols, by, negatives
        self.distinct = distinct
        self.crow = interactions.crow
        self.keys = interactions.row_of_entry() * self.n_items + interactions.col  # ascending
        self.users = (interactions.crow.diff() > 0).nonzero().squeeze(1)
        self.table: Tensor | None = None
        if self.n_users * self.n_items <= TABLE:
            self.table = torch.zeros(self.n_users * self.n_items, dtype=torch.bool)
            self.table[self.keys] = True

    def __len__(self) -> int:
        """The number of examples of an epoch."""
        return len(self.keys)

    def batch(self, index: Tensor) -> Pairs:
        """The examples ``index`` (B,) int64, each with negatives that are not among its user's items."""
        if self.by == "users":
            user = self.users[index % len(self.users)]
            start, end = self.crow[user], self.crow[user + 1]
            index = start + (torch.rand(len(user)) * (end - start)).long().minimum(end - start - 1)
        key = self.keys[index]
        user, item = key // self.n_items, key % self.n_items
        shape = (len(user),) if self.negatives == 1 else (len(user), self.negatives)
        asking = user.repeat_interleave(self.negatives)
        negative = torch.randint(self.n_items, asking.shape)
        drawn = torch.arange(len(asking))
        for _ in range(ROUNDS):
            drawn = drawn[self._known(asking[drawn] * self.n_items + negative[drawn])]
            if not len(drawn):
                break
            negative[drawn] = torch.randint(self.n_items, drawn.shape)
        for place in drawn[self._known(asking[drawn] * self.n_items + negative[drawn])].tolist():
            negative[place] = self._other(int(asking[place]), int(negative[place]))
        pairs = Pairs(user, item, negative.view(shape))
        return pairs._replace(users=user.unique(), items=item.unique()) if self.distinct else pairs

    def _other(self, user: int, otherwise: int) -> int:
        """An item that the user has not; ``otherwise`` for a user who has all."""
        free = torch.ones(self.n_items, dtype=torch.bool)
        free[self.keys[self.crow[user] : self.crow[user + 1]] % self.n_items] = False
        items = free.nonzero().squeeze(1)
        return int(items[torch.randint(len(items), ())]) if len(items) else otherwise

    def _known(self, keys: Tensor) -> Tensor:
        if self.table is not None:
            return self.table[keys]
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return self.keys[place] == keys

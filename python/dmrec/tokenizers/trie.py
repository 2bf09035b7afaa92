"""The prefix tree of the items' codes, in arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Children(NamedTuple):
    """The children of nodes, filled up to the largest number of them."""

    nodes: Tensor  # (.., W) int64 in the next level; 0 where there is none
    codes: Tensor  # (.., W) int64
    there: Tensor  # (.., W) bool


class Trie(nn.Module):
    """Items by their codes (N, levels): a node for each distinct prefix, those of a level in lexicographic order.

    Buffers, for each level l from 0: ``codes_l`` (n_l,), the last code of each node; ``first_l`` (n_l' + 1,) where n_l'
    is the number of nodes of the level above, 1 for the root: node i has the children first_l[i] to first_l[i + 1].
    ``items`` (N,) in the order of their codes, ascending within one tuple; ``first_item`` (n_L + 1,).
    """

    items: Tensor
    first_item: Tensor

    def __init__(self, codes: np.ndarray) -> None:
        super().__init__()
        codes = np.asarray(codes, dtype=np.int64)
        self.levels = codes.shape[1]
        order = np.lexsort([np.arange(len(codes)), *codes.T[::-1]])
        ordered = codes[order]
        changes = np.ones((len(codes), self.levels), dtype=bool)  # whether a prefix begins here
        if len(codes):
            changes[1:] = np.maximum.accumulate(ordered[1:] != ordered[:-1], axis=1)
        parent = np.zeros(len(codes), dtype=np.int64)
        n_parents = 1
        self.widest: list[int] = []  # of each level: the most children that a node above has in it
        for level in range(self.levels):
            starts = np.flatnonzero(changes[:, level])
            first = np.searchsorted(parent[starts], np.arange(n_parents + 1))
            self.widest.append(int(np.diff(first).max()))
            self.register_buffer(f"codes_{level}", torch.from_numpy(ordered[starts, level]), persistent=False)
            self.register_buffer(f"first_{level}", torch.from_numpy(first), persistent=False)
            parent, n_parents = np.cumsum(changes[:, level]) - 1, len(starts)
        first = np.searchsorted(parent, np.arange(n_parents + 1))
        self.register_buffer("first_item", torch.from_numpy(first), persistent=False)
        self.register_buffer("items", torch.from_numpy(order), persistent=False)

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.items)

    def n_nodes(self, level: int) -> int:
        """How many prefixes of ``level`` + 1 codes there are."""
        return len(self.codes(level))

    def codes(self, level: int) -> Tensor:
        """(n,) the last code of each node of a level."""
        found: Tensor = getattr(self, f"codes_{level}")
        return found

    def below(self, level: int, nodes: Tensor, *, width: int | None = None) -> Children:
        """The children in ``level`` of ``nodes`` (..) int64 of the level above, or of the root, whose number is 0.

        ``width``: fill up to this number, at least ``widest[level]``; the device is then not waited for.
        """
        return self._range(getattr(self, f"first_{level}"), nodes, self.codes(level), width)

    def items_of(self, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """The items (.., G) of ``leaves`` (..), and whether they are there."""
        found = self._range(self.first_item, leaves, self.items)
        return found.codes, found.there

    @staticmethod
    def _range(first: Tensor, nodes: Tensor, values: Tensor, width: int | None = None) -> Children:
        begin, end = first[nodes], first[nodes + 1]
        if width is None:
            width = int((end - begin).max()) if nodes.numel() else 0
        place = begin.unsqueeze(-1) + torch.arange(width, device=nodes.device)
        there = place < end.unsqueeze(-1)
        place = place.where(there, 0)
        return Children(place, values[place], there)

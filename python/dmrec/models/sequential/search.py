"""The k most likely items of a model that gives the probability of each code after those before it.

Logarithms of probabilities are at most 0, so the score of a prefix bounds that of every item below it. `exact_topk`
follows the 2 k best prefixes of each level (a beam), whose items give a k-th best score s. Where a prefix that the beam
gave up reaches s, all prefixes that do are expanded: what is left out then cannot be among the first k. Best-first
search (Meister et al., TACL 2020) expands fewer, but one prefix at a time.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from dmrec_ext import Csr, merge_topk

from ...tokenizers.trie import Trie

MOST_PREFIXES = 1 << 14  # of all users that are expanded at once
MARGIN = 1e-4  # scores of one prefix differ by less, whatever it is computed together with


class PrefixModel(Protocol):
    """A model for B users that stands behind the first codes of items: W prefixes of each user."""

    def next_codes(self) -> Tensor:
        """Log-probabilities (B, W, widest) of the children of the prefixes, as `Trie.below` lists them; -inf where
        there is none.
        """
        ...

    def follow(self, nodes: Tensor, parents: Tensor) -> Self:
        """The model behind the prefixes ``nodes`` (B, W'), whose parents are the prefixes ``parents`` (B, W')."""
        ...

    def users(self, index: Tensor) -> Self:
        """The model for some of the users (R,)."""
        ...

    def prefixes(self, index: slice) -> Self:
        """The model for some of the prefixes of each user."""
        ...


class Found(NamedTuple):
    """Items and their scores, in no order; -1 and -inf where there is none."""

    scores: Tensor  # (B, M)
    items: Tensor  # (B, M) int64

    @classmethod
    def side_by_side(cls, parts: list[Found]) -> Found:
        """Those of the same users."""
        return cls(torch.cat([part.scores for part in parts], 1), torch.cat([part.items for part in parts], 1))

    @classmethod
    def below_each_other(cls, parts: list[Found]) -> Found:
        """Those of other users, filled up to one width."""
        widest = max(part.scores.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return cls(
            torch.cat([pad(p.scores, (0, widest - p.scores.shape[1]), value=-torch.inf) for p in parts]),
            torch.cat([pad(p.items, (0, widest - p.items.shape[1]), value=-1) for p in parts]),
        )


class TopK(NamedTuple):
    """The first k items of each user, and how they were found."""

    scores: Tensor  # (B, k), descending; -inf where there is none
    items: Tensor  # (B, k) int64; -1 where there is none
    certified: Tensor  # (B,) bool: whether the beam alone is proven to hold them
    expanded: Tensor  # (B,) int64: prefixes that were expanded


def beam_topk(model: PrefixModel, trie: Trie, k: int, width: int, exclude: Csr | None = None) -> TopK:
    """The k best of the items below the ``width`` best prefixes of each level, none of ``exclude`` (B, N)."""
    n_users = _count(model)
    nodes, scores = _root(n_users, trie)
    bound = torch.full((n_users,), -torch.inf, dtype=torch.float64, device=nodes.device)
    expanded = torch.zeros(n_users, dtype=torch.int64, device=nodes.device)
    for level in range(trie.levels):
        log_p, children = model.next_codes(), trie.below(level, nodes)
        expanded += (scores > -torch.inf).sum(1)
        reached = (scores[:, :, None] + log_p).flatten(1)
        below = children.nodes.flatten(1)
        if level + 1 == trie.levels:
            break
        best = reached.topk(min(width + 1, reached.shape[1]), dim=1)
        if best.values.shape[1] > width:
            bound = torch.maximum(bound, best.values[:, width].double())
        scores, place = best.values[:, :width], best.indices[:, :width]
        nodes = below.gather(1, place)
        model = model.follow(nodes, place // log_p.shape[2])
    found = _without(_items(trie, below, reached), exclude)
    top = merge_topk(found.scores, found.items, k)
    return TopK(*top, bound < top[0][:, -1].double() - MARGIN, expanded)


def exact_topk(model: PrefixModel, trie: Trie, k: int, exclude: Csr | None = None) -> TopK:
    """The k best of all items but those of ``exclude`` (B, N): equal scores by item id."""
    first = beam_topk(model, trie, k, 2 * k, exclude)
    left = (~first.certified).nonzero().squeeze(1)
    if len(left) == 0:
        return first
    threshold = first.scores[left, -1] - MARGIN  # -inf where the beam has fewer than k items that are not excluded
    wider = 8 * k
    while bool(threshold.isneginf().any()) and wider < trie.n_items:
        few = threshold.isneginf().nonzero().squeeze(1)
        users = left[few]
        again = beam_topk(model.users(users), trie, k, wider, None if exclude is None else exclude.rows(users))
        threshold[few] = again.scores[:, -1] - MARGIN
        first.expanded[users] += again.expanded
        wider *= 4
    counts = torch.zeros_like(left)
    found = _reaching(model.users(left), trie, threshold, counts)
    found = _without(found, None if exclude is None else exclude.rows(left))
    scores, items = merge_topk(found.scores, found.items, k)
    return TopK(
        first.scores.index_copy(0, left, scores),
        first.items.index_copy(0, left, items),
        first.certified,
        first.expanded.index_add(0, left, counts),
    )


def all_scores(model: PrefixModel, trie: Trie) -> Tensor:
    """(B, N): the log-probability of every item."""
    n_users = _count(model)
    everything = torch.full((n_users,), -torch.inf, device=trie.items.device)
    found = _reaching(model, trie, everything, torch.zeros(n_users, dtype=torch.int64, device=trie.items.device))
    scores = found.scores.new_full((n_users, trie.n_items + 1), -torch.inf)
    return scores.scatter(1, found.items.where(found.items >= 0, trie.n_items), found.scores)[:, :-1]


def _count(model: PrefixModel) -> int:
    return model.next_codes().shape[0]


def _root(n_users: int, trie: Trie) -> tuple[Tensor, Tensor]:
    nodes = torch.zeros(n_users, 1, dtype=torch.int64, device=trie.items.device)
    return nodes, torch.zeros(n_users, 1, device=nodes.device)


def _reaching(model: PrefixModel, trie: Trie, threshold: Tensor, expanded: Tensor) -> Found:
    """All items with a score of at least ``threshold`` (B,); adds to ``expanded`` (B,) how many prefixes it took."""
    nodes, scores = _root(len(threshold), trie)
    return _descend(model, trie, 0, nodes, scores, threshold, expanded)


def _descend(
    model: PrefixModel, trie: Trie, level: int, nodes: Tensor, scores: Tensor, threshold: Tensor, expanded: Tensor
) -> Found:
    """`_reaching` from the prefixes ``nodes`` (B, W) that ``model`` is behind; ``scores``: -inf where there is none."""
    n_users, width = nodes.shape
    if n_users * width > MOST_PREFIXES and n_users > 1:  # in halves, so that memory does not grow with a flat model
        parts = []
        for index in torch.arange(n_users, device=nodes.device).chunk(2):
            counts = expanded[index]
            parts.append(
                _descend(model.users(index), trie, level, nodes[index], scores[index], threshold[index], counts)
            )
            expanded[index] = counts
        return Found.below_each_other(parts)
    if width > MOST_PREFIXES:
        parts = []
        for begin in range(0, width, MOST_PREFIXES):
            some = slice(begin, begin + MOST_PREFIXES)
            parts.append(
                _descend(model.prefixes(some), trie, level, nodes[:, some], scores[:, some], threshold, expanded)
            )
        return Found.side_by_side(parts)
    expanded += (scores > -torch.inf).sum(1)
    log_p, children = model.next_codes(), trie.below(level, nodes)
    reached = (scores[:, :, None] + log_p).flatten(1)
    below = children.nodes.flatten(1)
    reached = reached.masked_fill(reached < threshold[:, None], -torch.inf)
    if level + 1 == trie.levels:
        return _items(trie, below, reached)
    widest = max(int((reached > -torch.inf).sum(1).max()), 1)
    best = reached.topk(min(widest, reached.shape[1]), dim=1)
    nodes = below.gather(1, best.indices)
    after = model.follow(nodes, best.indices // log_p.shape[2])
    return _descend(after, trie, level + 1, nodes, best.values, threshold, expanded)


def _items(trie: Trie, leaves: Tensor, scores: Tensor) -> Found:
    """The items of leaves (B, M); those of one leaf share its score."""
    items, there = trie.items_of(leaves)
    there = there & (scores > -torch.inf)[:, :, None]
    spread = scores[:, :, None].expand(items.shape).masked_fill(~there, -torch.inf)
    return Found(spread.flatten(1), items.masked_fill(~there, -1).flatten(1))


def _without(found: Found, exclude: Csr | None) -> Found:
    """``found`` without the items of ``exclude`` (B, N)."""
    if exclude is None or exclude.nnz == 0:
        return found
    n = exclude.n_cols
    known = exclude.row_of_entry() * n + exclude.col  # ascending
    row = torch.arange(found.items.shape[0], device=found.items.device)[:, None]
    key = row * n + found.items.clamp_min(0)
    place = torch.searchsorted(known, key).clamp_max(len(known) - 1)
    out = known[place] == key
    return Found(found.scores.masked_fill(out, -torch.inf), found.items.masked_fill(out, -1))

"""How the items are cut into shards, and the sums, losses and rankings over all of them.

A tensor with an item axis exists once for each shard and is called ``NAME@V``, V the number of its shard; without
sharding it is one tensor called ``NAME``. What has no item axis is the same on every rank, computed by each of them
from the same bits.

Two functions carry the gradients between the two kinds: `ItemShards.sum` (forward: the sum over all shards, backward:
identity) and `ItemShards.each` (forward: identity, backward: the sum over all shards).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dmrec_ext import LOGITS_BUDGET, Csr, csr_aggregate, merge_topk, multinomial_terms, rank_topk

from .ranks import ALONE, Ranks

MERGED = 16
"""Rankings of shards that are merged at a time, at most."""


@dataclass(frozen=True)
class ItemShards:
    """N items in V shards of equal size s = ceil(N / V): shard v holds items v s to (v + 1) s, and the last ones may be
    short or empty. Each rank owns consecutive shards, V / R where both are powers of two.
    """

    n_items: int
    n_shards: int = 1
    ranks: Ranks = ALONE

    @property
    def is_whole(self) -> bool:
        """Whether the items are not cut at all."""
        return self.n_shards == 1

    @property
    def size(self) -> int:
        """s, the number of items of a shard."""
        return max(1, -(-self.n_items // self.n_shards))

    @property
    def owned(self) -> range:
        """The shards of this rank."""
        first, end = ((self.ranks.rank + i) * self.n_shards // self.ranks.size for i in (0, 1))
        return range(first, end)

    def bounds(self, shard: int) -> tuple[int, int]:
        """The first item of a shard, and the one after its last."""
        first = min(shard * self.size, self.n_items)
        return first, min(first + self.size, self.n_items)

    def name(self, name: str, shard: int) -> str:
        """What the tensor ``name`` of a shard is called."""
        return name if self.is_whole else f"{name}@{shard}"

    def tensors(self, module: nn.Module, name: str) -> list[Tensor]:
        """The parameters or buffers called ``name`` of a module, of the shards of this rank."""
        return [getattr(module, self.name(name, shard)) for shard in self.owned]

    def add_parameter(
        self, module: nn.Module, name: str, width: int | None, initialise: Callable[[Tensor], object]
    ) -> None:
        """Gives a module the parameter ``name``, (N, ``width``) or (N,), one for each shard of this rank.

        ``initialise`` fills a tensor from torch's global generator, see `fill`.
        """
        for shard in self.owned:
            first, end = self.bounds(shard)
            parameter = nn.Parameter(torch.empty(end - first, *([] if width is None else [width])))
            self.fill(parameter, initialise, type(module).__name__, name, shard)
            module.register_parameter(self.name(name, shard), parameter)

    def fill(self, tensor: Tensor, initialise: Callable[[Tensor], object], *key: int | str) -> None:
        """``initialise(tensor)``. Where the items are cut, torch's global generator begins at a seed that follows from
        its own and from ``key``, and is put back afterwards: other shards and layers do not depend on this one.
        """
        if self.is_whole:
            initialise(tensor)
        elif tensor.numel():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(keyed_seed(torch.initial_seed(), *key))
                initialise(tensor)

    def add_buffer(self, module: nn.Module, name: str, rows: Callable[[int, int], Tensor], *, persistent: bool) -> None:
        """Gives a module the buffer ``name``, one for each shard of this rank: ``rows(first, end)`` of the items."""
        for shard in self.owned:
            module.register_buffer(self.name(name, shard), rows(*self.bounds(shard)), persistent=persistent)

    def split(self, x: Csr) -> list[Csr]:
        """The columns of ``x`` (B, N) that belong to each shard of this rank, numbered from 0 in each."""
        if self.is_whole:
            return [x]
        parts = x.split(self.size)
        values = None if x.values is None else x.values[:0]
        nothing = Csr(torch.zeros_like(x.crow), x.col[:0], values, 0)
        return [parts[shard] if shard < len(parts) else nothing for shard in self.owned]

    def sum(self, part: Callable[[int], Tensor]) -> Tensor:
        """The sum over all shards; ``part(i)`` is that of the i-th shard of this rank. Its gradient is each part's."""
        total = _sum_of(part, 0, len(self.owned))
        return total if self.ranks.size == 1 else _SumOverRanks.apply(self.ranks, total)  # type: ignore[no-untyped-call]

    def each(self, x: Tensor, function: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
        """``function(i, x)`` for each shard of this rank. The gradient of x is the sum of those of all shards."""
        if self.ranks.size > 1:
            x = _ToRanks.apply(self.ranks, x)  # type: ignore[no-untyped-call]
        return _each(function, x, 0, len(self.owned))

    def aggregate(
        self, parts: Sequence[Csr], tables: Sequence[Tensor], own: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """(B, E), float32 of tables in 16 bits: sums of rows of the tables, by the columns of ``parts`` (see `split`).

        ``own`` (B, E) is added to each row, by the rank that has the user's place in the batch (see `own_rows`): its
        other rows are not read. ``bias`` (E,) is added once.
        """
        if self.is_whole:
            return csr_aggregate(parts[0], tables[0], bias if own is None else own)
        batch = parts[0].n_rows

        def part(i: int) -> Tensor:
            rounded = tables[i].dtype in (torch.float16, torch.bfloat16)
            total = csr_aggregate(parts[i], tables[i], dtype=torch.float32 if rounded else None)
            if own is None:
                return total
            rows = self.rows_of(self.owned[i], batch)
            total[rows] += own[rows]
            return total

        total = self.sum(part)
        return total if bias is None else total + bias

    def rows_of(self, shard: int, batch: int) -> slice:
        """The rows of a batch of users whose own vectors a shard adds."""
        return slice(-(-shard * batch // self.n_shards), -(-(shard + 1) * batch // self.n_shards))

    def own_rows(self, batch: int) -> slice:
        """The rows of a batch of users whose own vectors this rank reads."""
        return slice(self.rows_of(self.owned.start, batch).start, self.rows_of(self.owned.stop - 1, batch).stop)

    def nll(self, hidden: Tensor, weights: Sequence[Tensor], x: Csr, biases: Sequence[Tensor] | None) -> Tensor:
        """() mean negative log-likelihood of ``x`` (B, N) under the softmax over all items: `multinomial_nll` for items
        that are cut.
        """
        parts = self.split(x)

        def terms(i: int, of_shard: Tensor) -> Tensor:
            bias = None if biases is None else biases[i]
            return multinomial_terms(of_shard, weights[i], parts[i], bias, logits_budget=LOGITS_BUDGET // self.n_shards)

        combined: Tensor = _CombineTerms.apply(self.ranks, *self.each(hidden, terms))  # type: ignore[no-untyped-call]
        log_sum, of_targets = combined
        total = x.crow.diff().double()
        if x.values is not None:
            total = total.zero_().index_add(0, x.row_of_entry(), x.values.double())
        loss = torch.where(total == 0, 0.0, total * log_sum) - of_targets
        mean: Tensor = loss.to(torch.float64 if weights[0].dtype == torch.float64 else torch.float32).mean()
        return mean

    def rank(
        self,
        query: Tensor,
        weights: Sequence[Tensor],
        k: int,
        biases: Sequence[Tensor] | None = None,
        exclude: Csr | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The k best of all items for each query (B, H): `rank_topk` for items that are cut, the same on every rank."""
        parts = None if exclude is None else self.split(exclude._replace(values=None))
        scores, ids = [], []
        least, due = None, 1  # a score to be among the first k so far, and after how many shards it is looked for again
        for i, shard in enumerate(self.owned):
            bias, out = None if biases is None else biases[i], None if parts is None else parts[i]
            best, items = rank_topk(query, weights[i], k, bias=bias, exclude=out, exact_scores=True, at_least=least)
            scores.append(best)
            ids.append(torch.where(items >= 0, items + shard * self.size, -1))
            if i + 1 == due or shard == self.owned[-1]:
                best, items = merge_topk(torch.cat(scores, 1), torch.cat(ids, 1), k)
                scores, ids = [best], [items]
                least = torch.where(items[:, -1] >= 0, best[:, -1], torch.nan)
                due += min(due, MERGED)
        if self.ranks.size > 1:
            best, items = self._merged(best, items, k)
        return best.to(query.dtype), items

    def _merged(self, scores: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best of the candidates (B, k) of all ranks: rank r merges those of its share of the rows, for all."""
        batch, ranks = len(scores), self.ranks
        share = -(-batch // ranks.size)
        padding = (0, 0, 0, share * ranks.size - batch)
        sent = (nn.functional.pad(each, padding).view(ranks.size, share, k) for each in (scores, ids))
        of_ranks, items = (ranks.exchange(each).transpose(0, 1).reshape(share, -1) for each in sent)
        merged = merge_topk(of_ranks, items, k)
        best, items = (ranks.gather(each).view(-1, k)[:batch] for each in merged)
        return best, items


def keyed_seed(*key: int | str) -> int:
    """A seed that follows from a key alone, in [0, 2^63)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


SHARD = re.compile(r"@(\d+)")


def shard_of(name: str) -> int | None:
    """The number of the shard that a tensor of this name belongs to; None: to all."""
    found = SHARD.search(name)
    return None if found is None else int(found[1])


def without_shard(name: str) -> str:
    """The name of a tensor of a shard, without the number of the shard."""
    return SHARD.sub("", name)


def whole_state(state: Mapping[str, Tensor], n_shards: int) -> dict[str, Tensor]:
    """The state of the same model over items that are not cut, from that of all shards."""
    found = {name: tensor for name, tensor in state.items() if shard_of(name) is None}
    for name in dict.fromkeys(without_shard(name) for name in state if shard_of(name) is not None):
        found[name] = torch.cat([state[f"{name}@{shard}"] for shard in range(n_shards)])
    return found


def _sum_of(part: Callable[[int], Tensor], first: int, count: int) -> Tensor:
    """The sum over shards as a binary tree, at most log2(count) parts at a time."""
    if count == 1:
        return part(first)
    half = count // 2
    return _sum_of(part, first, half) + _sum_of(part, first + half, count - half)


def _each(function: Callable[[int, Tensor], Tensor], x: Tensor, first: int, count: int) -> list[Tensor]:
    """Autograd adds the gradients of ``x`` as a tree: each view of it is used by two others, or by one shard. It visits
    nodes from the last made to the first, so that few gradients are held at a time.
    """
    if count == 1:
        return [function(first, x)]
    half = count // 2
    return [
        *_each(function, x.view_as(x), first, half),
        *_each(function, x.view_as(x), first + half, count - half),
    ]


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, x: Tensor) -> Tensor:
        return ranks.sum(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class _ToRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, x: Tensor) -> Tensor:
        ctx.ranks = ranks
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.ranks.sum(grad)


class _CombineTerms(torch.autograd.Function):
    """(2, B) of all items from those of the shards of this rank. The gradients are of the whole sum, whatever the tree:
    dS / dS_v = exp(S_v - S), dT / dT_v = 1.
    """

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *terms: Tensor) -> Tensor:
        of_ranks = ranks.gather(_combined(terms))
        combined = _combined(of_ranks.unbind(0))
        ctx.save_for_backward(combined[0], *(each[0] for each in terms))
        return combined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        log_sum, *of_shards = ctx.saved_tensors
        shares = (torch.where(each == -torch.inf, 0.0, (each - log_sum).exp()) for each in of_shards)
        return None, *(torch.stack([grad[0] * share, grad[1]]) for share in shares)


def _combined(terms: Sequence[Tensor]) -> Tensor:
    """`multinomial_terms` of all items from those of parts, as a binary tree."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    a, b = _combined(terms[:half]), _combined(terms[half:])
    return torch.stack([torch.logaddexp(a[0], b[0]), a[1] + b[1]])

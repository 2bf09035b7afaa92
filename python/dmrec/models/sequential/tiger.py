"""TIGER (Rajput et al., NeurIPS 2023): a transformer reads the codes of a user's items and writes those of the next.

Each item is a tuple of codes, its semantic ID. The encoder reads the tuples of the last items, oldest first; the
decoder gives the probability of each code of the next item after those before it. Items are ranked by the product of
these probabilities. LETTER-TIGER (Wang et al., CIKM 2024) is the same model on other codes.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr

from ...errors import DmrecError
from ...tokenizers.trie import Trie
from ..base import PosteriorSource, TrainingData, UserBatch, WithPosterior, register
from .examples import NextItemExamples, interactions_of, last_items
from .generative import GenerativeModel, Predictions, Reading
from .search import beam_topk, exact_topk
from .t5 import Cache, Decoder, Encoder, Memory, T5Options, initialise

SIZES = {
    "small": T5Options(layers=2, width=64, feed_forward=256, heads=4, head_width=16),
    "medium": T5Options(layers=3, width=128, feed_forward=512, heads=4, head_width=32),
    "published": T5Options(layers=4, width=128, feed_forward=1024, heads=6, head_width=64),
}
USERS_AT_ONCE = 128  # that are searched together: memory, and fixed, as products differ in their last bits with it


@register
class TigerConfig(WithPosterior):
    """TIGER."""

    kind: Literal["tiger"] = "tiger"
    reads_sequences: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = True

    size: Literal["small", "medium", "published"] = Field("small", description="of the transformer, see `transformer`")
    transformer: T5Options | None = Field(None, description="sizes of one's own, in place of those that `size` names")
    history: int = Field(20, ge=1, description="the last items of a user that are read")
    user_tokens: int = Field(0, ge=0, description="tokens that users are hashed to, read before the items; 0: none")
    head_scale: Literal["root", "one"] = Field(
        "root", description="logits are products of hidden states and codes, times 1 / sqrt(width), or as they are"
    )
    loss_over: Literal["vocabulary", "children"] = Field(
        "vocabulary",
        description="softmax of a code over all codes of its level, as published, or over those that items have after "
        "the codes before it: then the loss is the negative log-likelihood of the item",
    )
    children_of: Literal["all", "seen"] = Field(
        "all",
        description="with `loss_over: children`, of which items: all, or those with training interactions; the codes "
        "of items without any are then not learned to be improbable",
    )
    temperature: float = Field(1.0, gt=0, description="logits are divided by it in training (LETTER)")
    normalise: Literal["trie", "vocabulary"] = Field(
        "trie", description="the same softmax in ranking; over the trie, the probabilities of the items sum to 1"
    )
    search: Literal["exact", "beam"] = Field("exact", description="exact: the k best of all items; beam: as published")
    beam_width: int = Field(20, ge=1, description="prefixes that a beam follows")
    blocks: int = Field(
        8, ge=1, description="parts, by the length of histories, in which a batch is encoded without much padding"
    )

    def build(self, data: TrainingData) -> Tiger:
        """The transformer; initial weights follow torch's global seed."""
        return Tiger(data, self)

    @property
    def sizes(self) -> T5Options:
        """Of the transformer."""
        return self.transformer or SIZES[self.size]


class Block(NamedTuple):
    """Some examples of a batch, of nearly equal length."""

    place: Tensor  # (B,) int64: which of the batch
    users: Tensor  # (B,) int64 rows; -1 for an unknown user
    history: Tensor  # (B, T) int64 items, oldest first, then -1
    target: Tensor  # (B,) int64
    interactions: Csr | None  # (B, N): the items of the histories, where a posterior is read


class Tiger(GenerativeModel):
    """An example is a training interaction but the first of a user, with those before it."""

    ranks_deep = False  # a search through the codes takes longer the more items it is to find

    def __init__(self, data: TrainingData, options: TigerConfig) -> None:
        super().__init__(data)
        if data.histories is None:
            raise DmrecError("tiger needs the order of interactions")
        self.options, self.examples = options, NextItemExamples(data.histories, options.history)
        self.n_examples = len(self.examples)
        self.seen = data.histories.items.unique()
        self._tree_of_loss()
        sizes = options.sizes
        self.width = sizes.width
        self.encoder, self.decoder = Encoder(sizes), Decoder(sizes)
        initialise(self.encoder, sizes)
        initialise(self.decoder, sizes)
        deviation = 1.0 if sizes.initialisation == "t5" else 0.02
        self.tokens = nn.Parameter(deviation * torch.randn(self.levels, self.codebook_size, sizes.width))
        self.start = nn.Parameter(deviation * torch.randn(sizes.width))
        hashed = deviation * torch.randn(options.user_tokens, sizes.width)
        self.user_tokens = nn.Parameter(hashed) if options.user_tokens else None
        self.of_posterior: nn.Linear | None = None
        if data.posterior is not None:
            self.source = Posterior(data.posterior, data.n_items)
            self.of_posterior = nn.Linear(self.source.width, sizes.width, bias=False)
        self.scale = sizes.width**-0.5 if options.head_scale == "root" else 1.0

    def set_codes(self, codes: Tensor) -> None:
        """Takes other codes (N, levels) int64 of the items."""
        super().set_codes(codes)
        self._tree_of_loss()

    def _tree_of_loss(self) -> None:
        """The tree of the items whose codes the loss is over; its items are not used."""
        of_all = self.options.children_of == "all"
        some = self.codes.cpu()[self.seen].numpy()
        self.tree_of_loss = self.trie if of_all else Trie(some).to(self.codes.device)

    def batch(self, index: Tensor) -> tuple[Block, ...]:
        """The examples ``index`` in `TigerConfig.blocks` parts by the length of their histories."""
        users, history, target = self.examples.rows(index)
        length = (history >= 0).sum(1)
        order = length.argsort(stable=True)
        blocks = []
        for part in order.chunk(self.options.blocks):
            some = history[part, : max(int(length[part].max()), 1)]
            known = None if self.of_posterior is None else interactions_of(some, self.source.n_items)
            blocks.append(Block(part, users[part], some, target[part], known))
        return tuple(blocks)

    def targets(self, index: Tensor) -> Tensor:
        """(B,) the items after the histories."""
        return self.examples.targets(index)

    def predictions(self, batch: tuple[Block, ...]) -> Predictions:
        """A part of the batch after the other."""
        parts = [self._of_block(block) for block in batch]
        order = torch.cat([block.place for block in batch]).argsort()
        reading = Reading(*(torch.cat(each)[order] for each in zip(*(part.reading for part in parts), strict=True)))
        return Predictions(torch.cat([part.nll for part in parts])[order], reading)

    def reading(self, batch: tuple[Block, ...]) -> Reading:
        """Means of the encoder's states of the codes, and what the decoder makes of the start alone."""
        parts = []
        for block in batch:
            states, there = self.encoded(block.users, block.history, block.interactions)
            start = self.start.expand(len(there), 1, -1)
            first = self.decoder(start, self.decoder.memory(states, there)).squeeze(1)
            parts.append(Reading(_mean(states, there), first))
        order = torch.cat([block.place for block in batch]).argsort()
        return Reading(*(torch.cat(each)[order] for each in zip(*parts, strict=True)))

    def _of_block(self, block: Block) -> Predictions:
        options, over = self.options, self.tree_of_loss if self.options.loss_over == "children" else None
        log_p, reading = self._written(block, options.temperature, over)
        return Predictions(-log_p.sum(1), reading)

    def _written(self, block: Block, temperature: float, tree: Trie | None) -> tuple[Tensor, Reading]:
        """(B, levels) log-probabilities of the target's codes among those that a tree has there, or among all."""
        states, there = self.encoded(block.users, block.history, block.interactions)
        memory = self.decoder.memory(states, there)
        codes = self.codes[block.target]  # (B, levels)
        before = self._embedded(codes[:, :-1])
        start = self.start.expand(len(codes), 1, -1)
        hidden = self.decoder(torch.cat([start, before], 1), memory)
        logits = self.logits(hidden) / temperature  # (B, levels, codes)
        if tree is not None:
            logits = logits.masked_fill(~self._children(codes, tree), -torch.inf)
        picked = torch.log_softmax(logits.float(), -1).gather(2, codes[:, :, None]).squeeze(2)
        return picked, Reading(_mean(states, there), hidden[:, 0])

    @torch.no_grad()
    def log_likelihood(self, batch: UserBatch, items: Csr) -> Tensor:
        """(nnz,): with `TigerConfig.normalise` over the codes of the tree or all."""
        if batch.sequences is None:
            raise DmrecError("tiger reads the order of interactions, and there is none")
        tree = self.trie if self.options.normalise == "trie" else None
        history, user = last_items(batch.sequences, self.options.history), items.row_of_entry()
        users = torch.full_like(user, -1) if batch.ids is None else batch.ids[user]
        parts = []
        for some in torch.arange(len(user), device=self.device).split(USERS_AT_ONCE):
            block = Block(some, users[some], history[user[some]], items.col[some], None)
            parts.append(self._written(block, 1.0, tree)[0].sum(1))
        return torch.cat([torch.zeros(0, device=self.device), *parts])

    def read(self, users: Tensor, history: Tensor) -> Memory:
        """What the decoder reads of users (B,) with histories (B, T) of items, -1 where there is none."""
        return self.decoder.memory(*self.encoded(users, history))

    def encoded(self, users: Tensor, history: Tensor, interactions: Csr | None = None) -> tuple[Tensor, Tensor]:
        """(B, S, width) states of the encoder, and (B, S) bool: where there is a code or another token.

        ``interactions``: the items of the histories, if they are at hand where a posterior is read.
        """
        there = history >= 0
        x = self._embedded(self.codes[history.clamp_min(0)]).flatten(1, 2)
        there = there.repeat_interleave(self.levels, 1)
        if self.user_tokens is not None:
            of_user = self.user_tokens[users.clamp_min(0) % self.options.user_tokens]
            x, there = torch.cat([of_user[:, None], x], 1), torch.cat([(users >= 0)[:, None], there], 1)
        if self.of_posterior is not None:
            if interactions is None:
                interactions = interactions_of(history, self.source.n_items)
            token = self.of_posterior(self.source.means(history, interactions))
            x, there = torch.cat([token[:, None], x], 1), torch.cat([torch.ones_like(there[:, :1]), there], 1)
        return self.encoder(x, there), there

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, levels, codes) of hidden states (B, levels, width), one for each level from the first."""
        return self.scale * torch.einsum("blh,lch->blc", hidden, self.tokens[: hidden.shape[1]])

    def _embedded(self, codes: Tensor) -> Tensor:
        """(.., L, width) of codes (.., L) of the first L levels."""
        level = torch.arange(codes.shape[-1], device=codes.device)
        return self.tokens[level, codes]

    def _children(self, codes: Tensor, tree: Trie) -> Tensor:
        """(B, levels, codes) bool: which codes the items of the tree have after the codes before."""
        found = torch.zeros(*codes.shape, self.codebook_size + 1, dtype=torch.bool, device=codes.device)
        node = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        for level in range(self.levels):
            children = tree.below(level, node, width=tree.widest[level])
            found[:, level].scatter_(1, children.codes.where(children.there, self.codebook_size), True)
            is_next = children.there & (children.codes == codes[:, level, None])
            node = children.nodes.gather(1, is_next.to(torch.int8).argmax(1, keepdim=True)).squeeze(1)
        return found[:, :, :-1]

    @torch.no_grad()
    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k most probable next items; scores are logarithms of probabilities."""
        if batch.sequences is None:
            raise DmrecError("tiger reads the order of interactions, and there is none")
        parts = []
        for rows in torch.arange(batch.size, device=self.device).split(USERS_AT_ONCE):
            ids = None if batch.ids is None else batch.ids[rows]
            behind = self.behind(ids, batch.sequences[rows])
            out = None if exclude is None else exclude.rows(rows)
            if self.options.search == "exact":
                parts.append(exact_topk(behind, self.trie, k, out))
            else:
                parts.append(beam_topk(behind, self.trie, k, max(self.options.beam_width, k), out))
        if not parts:
            return torch.empty(0, k, device=self.device), torch.empty(0, k, dtype=torch.int64, device=self.device)
        return torch.cat([part.scores for part in parts]), torch.cat([part.items for part in parts])

    def behind(self, ids: Tensor | None, sequences: Tensor) -> Behind:
        """The model behind the histories (B, S) of users, before the first code."""
        history = last_items(sequences, self.options.history)
        users = torch.full((len(history),), -1, device=self.device) if ids is None else ids
        memory = self.read(users, history)
        return Behind.first(self, memory)


class Posterior:
    """A trained model's posterior of histories. It is no part of the model that reads it: not trained, not saved."""

    def __init__(self, source: PosteriorSource, n_items: int) -> None:
        self.model, self.n_items = source.model.eval().requires_grad_(False), n_items
        vectors = source.item_text_vectors
        self.vectors = None if vectors is None else torch.from_numpy(np.array(vectors, dtype=np.float32))
        nothing = torch.full((1, 1), -1)
        self.width = self.means(nothing, interactions_of(nothing, n_items)).shape[1]

    @torch.no_grad()
    def means(self, history: Tensor, interactions: Csr) -> Tensor:
        """(B, D) for histories (B, T) of items, filled up with -1, and the same as a matrix (B, N)."""
        if self.model.device != history.device:
            self.model.to(history.device)
            self.vectors = None if self.vectors is None else self.vectors.to(history.device)
        text = None
        if self.vectors is not None:
            there = (history >= 0) & (history < self.n_items)
            total = (self.vectors[history.where(there, 0)] * there[:, :, None]).sum(1)
            text = total / total.norm(dim=1, keepdim=True).clamp_min(1e-9)
        return self.model.posterior(UserBatch(None, interactions, text))[0].float()


def _mean(states: Tensor, there: Tensor) -> Tensor:
    """(B, width): means of states (B, S, width) where something is there (B, S)."""
    return (states * there[:, :, None]).sum(1) / there.sum(1, keepdim=True).clamp_min(1)


class Behind:
    """Tiger behind W prefixes of each of B users: see `search.PrefixModel`."""

    def __init__(
        self, model: Tiger, memory: Memory, level: int, nodes: Tensor, hidden: Tensor, cache: Cache | None
    ) -> None:
        self.model, self.memory, self.level, self.nodes = model, memory, level, nodes
        self.hidden, self.cache = hidden, cache  # (B, W, width)

    @classmethod
    def first(cls, model: Tiger, memory: Memory) -> Behind:
        """Before the first code."""
        n_users = len(memory.bias)
        hidden, cache = model.decoder.step(model.start.expand(n_users, 1, -1), memory, None)
        return cls(model, memory, 0, torch.zeros(n_users, 1, dtype=torch.int64, device=hidden.device), hidden, cache)

    def next_codes(self) -> Tensor:
        """(B, W, widest) log-probabilities of the children."""
        model, children = self.model, self.model.trie.below(self.level, self.nodes)
        logits = (model.scale * (self.hidden @ model.tokens[self.level].T)).float()
        if model.options.normalise == "vocabulary":
            picked = torch.log_softmax(logits, -1).gather(2, children.codes)
            return picked.masked_fill(~children.there, -torch.inf)
        return torch.log_softmax(logits.gather(2, children.codes).masked_fill(~children.there, -torch.inf), -1)

    def follow(self, nodes: Tensor, parents: Tensor) -> Self:
        """One code farther."""
        model, code = self.model, self.model.trie.codes(self.level)[nodes]
        assert self.cache is not None
        rows = torch.arange(len(nodes), device=nodes.device)[:, None]
        keys, values = (
            [part.transpose(1, 2)[rows, parents].transpose(1, 2) for part in kind]
            for kind in (self.cache.keys, self.cache.values)
        )
        x = model.tokens[self.level][code]
        hidden, cache = model.decoder.step(x, self.memory, Cache(keys, values))
        return type(self)(model, self.memory, self.level + 1, nodes, hidden, cache)

    def users(self, index: Tensor) -> Self:
        """For some of the users."""
        assert self.cache is not None
        cache = Cache([k[index] for k in self.cache.keys], [v[index] for v in self.cache.values])
        memory = self.memory.rows(index)
        return type(self)(self.model, memory, self.level, self.nodes[index], self.hidden[index], cache)

    def prefixes(self, index: slice) -> Self:
        """For some of the prefixes of each user."""
        assert self.cache is not None
        cache = Cache([k[:, :, index] for k in self.cache.keys], [v[:, :, index] for v in self.cache.values])
        return type(self)(self.model, self.memory, self.level, self.nodes[:, index], self.hidden[:, index], cache)

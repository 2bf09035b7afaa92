"""Items known by their texts: rows of a layer that are partly an item's own and partly a map of its text vector.

The row of item i with the unit text vector t_i is

    w_i = own_i + M phi(t_i),    b_i = own bias_i + m phi(t_i) + constant,

where phi is the identity, a low-rank map, or a hidden layer with tanh. In each training step ``own_i`` and its bias are
left out for a random share ``forget`` of the items, so that the map learns to stand in for them.

An item that nobody has taken yet has no row of its own and is known by the map alone. In training it is not among the
items that a user might have taken: that nobody took what was not there says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate

from ...options import Options
from ...sharding.items import ItemShards
from .backbone import Decoded, ShardedDecoded
from .layers import SparseLinear


class ItemTextConfig(Options):
    """Rows of layers from the texts of items, see `models.vae.item_text`."""

    vectors: str | None = Field(
        None,
        description="name of text vectors in the dataset; default: those of the language posterior, or the only ones",
    )
    map: Literal["linear", "low-rank", "two-layer"] = Field(
        "linear", description="from text vectors to rows: one matrix, a product of two, or a hidden layer with tanh"
    )
    rank: int = Field(64, ge=1, description="inner width of the low-rank and the two-layer map")
    forget: float = Field(
        0.3, ge=0, lt=1, description="share of the items that are known by their texts alone in a training step"
    )
    encoder: bool = Field(False, description="whether the encoder's first layer knows items by their texts, too")


class ItemTexts(NamedTuple):
    """What a model knows of the items of its data besides interactions."""

    vectors: Tensor  # (N, E) float32 of unit length, or zeros
    taken: Tensor  # (N,) bool: whether anybody has taken an item in training


class TextRows(nn.Module):
    """Rows of all items from their texts: a map of phi. The texts are neither trained nor part of checkpoints."""

    vectors: Tensor  # (N, E) float32 of unit length, or zeros
    taken: Tensor | None  # (N,) bool; None where all are

    def __init__(self, texts: ItemTexts, options: ItemTextConfig, width: int, *, bias: bool) -> None:
        super().__init__()
        vectors = texts.vectors
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("taken", None if bool(texts.taken.all()) else texts.taken, persistent=False)
        self.forget = options.forget
        inner = vectors.shape[1] if options.map == "linear" else options.rank
        self.two_layer = options.map == "two-layer"
        self.hidden = None if options.map == "linear" else nn.Linear(vectors.shape[1], inner, bias=self.two_layer)
        self.map = nn.Linear(inner, width, bias=bias)

    def phi(self) -> Tensor:
        """(N, F)."""
        if self.hidden is None:
            return self.vectors
        hidden: Tensor = self.hidden(self.vectors)
        return torch.tanh(hidden) if self.two_layer else hidden

    def known(self, like: Tensor) -> Tensor | None:
        """(N,) 0 for the items without a row of their own, in training forgotten ones included, else 1; None: all have
        one.
        """
        if not (self.training and self.forget):
            return None if self.taken is None else self.taken.to(like.dtype)
        drawn = like.new_empty(len(self.vectors)).bernoulli_(1 - self.forget)
        return drawn if self.taken is None else drawn * self.taken


class ItemLinear(nn.Module):
    """The decoder's last layer: a row and a bias for each item, of its own and, with ``text``, of its text."""

    weight: Tensor  # (N, H) and (N,), where the items are not cut
    bias: Tensor

    def __init__(self, width: int, items: ItemShards, text: ItemTexts | None, options: ItemTextConfig | None) -> None:
        super().__init__()
        self.in_features, self.items = width, items
        items.add_parameter(self, "weight", width, lambda weight: nn.init.kaiming_uniform_(weight, a=math.sqrt(5)))
        bound = 1 / math.sqrt(width)  # both are torch's default for nn.Linear
        items.add_parameter(self, "bias", None, lambda bias: nn.init.uniform_(bias, -bound, bound))
        self.text = None
        if options is not None:
            assert text is not None, "a run whose model reads the texts of items has their vectors"
            self.text = TextRows(text, options, width + 1, bias=True)
        self._formed: tuple[tuple[object, ...], tuple[Tensor, Tensor]] | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, N): the scores of all items."""
        return self.decoded(hidden).whole().scores()

    def decoded(self, hidden: Tensor) -> Decoded | ShardedDecoded:
        """The scores of all items for hidden vectors (B, H), without the last product."""
        if self.items.is_whole:
            return Decoded(hidden, *self.rows())
        weights, biases = (self.items.tensors(self, name) for name in ("weight", "bias"))
        return ShardedDecoded(self.items, hidden, weights, biases)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Weight (N, H) and bias (N,) of all items.

        In training they are formed in every step. In evaluation they are formed once and kept until a weight changes.
        """
        if self.text is None:
            return self.weight, self.bias
        if self.training or torch.is_grad_enabled():
            return self._form(self.text)
        now = tuple((weight.data_ptr(), weight._version) for weight in self.parameters())
        if self._formed is None or self._formed[0] != now:
            self._formed = now, self._form(self.text)
        return self._formed[1]

    def train(self, mode: bool = True) -> ItemLinear:
        """Training or evaluation; what was formed for evaluation is released."""
        self._formed = None
        super().train(mode)
        return self

    def _form(self, text: TextRows) -> tuple[Tensor, Tensor]:
        phi, width, rows = text.phi(), self.in_features, text.map
        weight = nn.functional.linear(phi, rows.weight[:width], rows.bias[:width]).to(self.weight.dtype)
        bias = nn.functional.linear(phi, rows.weight[width:], rows.bias[width:]).squeeze(1).to(self.bias.dtype)
        known = text.known(bias)
        if known is None:
            return weight.add_(self.weight), bias.add_(self.bias)  # in place: nothing else holds them
        weight, bias = weight.addcmul_(self.weight, known[:, None]), bias.addcmul_(self.bias, known)
        if self.training and text.taken is not None:
            bias = bias.masked_fill(~text.taken, -torch.inf)
        return weight, bias


class ItemInput(SparseLinear):
    """The encoder's first layer over (B, N): a row for each item, of its own and, with ``text``, of its text."""

    def __init__(self, items: ItemShards, width: int, text: ItemTexts | None, options: ItemTextConfig | None) -> None:
        super().__init__(items, width)
        self.text = None
        if options is not None and options.encoder:
            assert text is not None, "a run whose model reads the texts of items has their vectors"
            self.text = TextRows(text, options, width, bias=False)

    def of_parts(self, parts: Sequence[Csr]) -> Tensor:
        """(B, H): the sum of the rows of each user's items, and the bias."""
        if self.text is None:
            return super().of_parts(parts)
        (x,) = parts
        of_text: Tensor = self.text.map(csr_aggregate(x, self.text.phi()))
        known = self.text.known(self.weight)
        if known is not None:
            x = x._replace(values=known[x.col] if x.values is None else x.values * known[x.col])
        return super().of_parts([x]) + of_text


def unit_vectors(vectors: np.ndarray) -> Tensor:
    """(N, E) float32 of unit length; rows of zeros stay zeros. Arrays that are so already are not copied."""
    found = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
    norm = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    if bool(((norm - 1).abs() < 1e-3).logical_or(norm == 0).all()):
        return found
    unit: Tensor = found / norm.clamp_min(1e-9)
    return unit

"""SASRec (Kang and McAuley, ICDM 2018): self-attention over the last items, each looking at those before it.

Embeddings of items and of places, blocks of causal attention and a feed-forward layer, layer norm before each. A
user's score of an item is the product of the last hidden state and the item's embedding. The loss here is the cross
entropy over all items at every place, in place of one negative a place: the stronger of the two (Klenitskiy and
Vasilev, RecSys 2023).
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr, multinomial_nll

from ...errors import DmrecError
from ..base import Losses, ModelConfig, Step, TrainedModel, TrainingData, UserBatch, register
from .examples import last_items


@register
class SasRecConfig(ModelConfig):
    """SASRec."""

    kind: Literal["sasrec"] = "sasrec"
    reads_sequences: ClassVar[bool] = True

    embedding_dim: int = Field(64, ge=1, description="width of embeddings and hidden states")
    layers: int = Field(2, ge=1, description="blocks of attention and feed-forward")
    heads: int = Field(2, ge=1, description="attention heads; they divide the width")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout of embeddings, attention weights and sublayers")
    history: int = Field(50, ge=1, description="the last items of a user that are read")

    def refusal(self, n_users: int, n_items: int) -> str | None:
        """Refuses a width that the heads do not divide."""
        del n_users, n_items
        if self.embedding_dim % self.heads == 0:
            return None
        return f"model.embedding_dim {self.embedding_dim} must be a multiple of model.heads {self.heads}"

    def build(self, data: TrainingData) -> SasRec:
        """The embeddings and blocks; initial weights follow torch's global seed."""
        return SasRec(data, self)


class Window(NamedTuple):
    """Histories, and what came next at each place."""

    items: Tensor  # (B, T) int64, oldest first, then -1
    row: Tensor  # (P,) int64: the places that have a next item ..
    place: Tensor
    target: Tensor  # .. and this item


class SasRec(TrainedModel):
    """An example is a user with at least two training interactions: all places of the history at once."""

    def __init__(self, data: TrainingData, options: SasRecConfig) -> None:
        super().__init__()
        if data.histories is None:
            raise DmrecError("sasrec needs the order of interactions")
        self.options, self.histories = options, data.histories
        self.users = (data.histories.indptr.diff() > 1).nonzero().squeeze(1)
        self.n_examples = len(self.users)
        width = options.embedding_dim
        self.items = nn.Parameter(0.02 * torch.randn(data.n_items, width))
        self.places = nn.Parameter(0.02 * torch.randn(options.history, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, options.heads, 4 * width, options.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(options.layers)
        )
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(options.dropout)

    def batch(self, index: Tensor) -> Window:
        """The last places of the users ``index``, with the item that came next at each."""
        sequence = last_items(self.histories.rows(self.users[index]), self.options.history + 1)
        items, after = sequence[:, :-1], sequence[:, 1:]
        row, place = (after >= 0).nonzero(as_tuple=True)
        return Window(items.where(after >= 0, -1), row, place, after[row, place])

    def loss(self, batch: Window, step: Step) -> Losses:
        """``nll`` of the next item, the mean over places."""
        del step
        hidden = self.hidden(batch.items)[batch.row, batch.place]
        nll = multinomial_nll(hidden, self.items, batch.target)
        return {"loss": nll, "nll": nll}

    def hidden(self, items: Tensor) -> Tensor:
        """(B, T, width) of items (B, T), -1 behind the last."""
        length = items.shape[1]
        x = self.dropout(self.items[items.clamp_min(0)] * self.items.shape[1] ** 0.5 + self.places[:length])
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for block in self.blocks:  # what is behind the last item is later, and so never looked at
            x = block(x, src_mask=later)
        result: Tensor = self.norm(x)
        return result

    @torch.no_grad()
    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items with the largest products with the last hidden state."""
        if batch.sequences is None:
            raise DmrecError("sasrec reads the order of interactions, and there is none")
        items = last_items(batch.sequences, self.options.history)
        last = ((items >= 0).sum(1) - 1).clamp_min(0)
        query = self.hidden(items)[torch.arange(len(items), device=items.device), last]
        return self.rank_items(query, self.items.detach(), k, exclude=exclude)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """(N, width): the embeddings of the items."""
        return self.items.detach()

"""The contract of models that write the codes of the next item, with which an alignment of codes can be joined."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import DmrecError
from ...tokenizers.trie import Trie
from ..base import Losses, Step, TrainedModel, TrainingData


class Reading(NamedTuple):
    """What a model has read of B histories."""

    history: Tensor  # (B, width)
    first: Tensor  # (B, width): the state from which the first code is predicted


class Predictions(NamedTuple):
    """What a model makes of B examples."""

    nll: Tensor  # (B,) negative log-likelihood of the target's codes, in nats
    reading: Reading


class GenerativeModel(TrainedModel):
    """A model over codes of items.

    A subclass gives `batch` and `rank`, as every model, and `targets` and `predictions`. It reads ``codes`` and
    ``trie`` anew in each step: where a tokenizer learns, they change between epochs. It has a row for each of the
    ``codebook_size`` codes of a level, whether an item has it or not.
    """

    width: int  # of `Reading`
    codes: Tensor  # (N, levels) int64

    def __init__(self, data: TrainingData) -> None:
        super().__init__()
        if data.item_codes is None:
            raise DmrecError(f"{type(self).__name__} needs codes of the items (dmrec tokenize)")
        self.codebook_size = data.item_codes.size
        codes = torch.from_numpy(data.item_codes.codes.astype("int64"))
        self.register_buffer("codes", codes, persistent=False)
        self.trie = Trie(data.item_codes.codes)

    @property
    def levels(self) -> int:
        """Codes of an item."""
        return self.codes.shape[1]

    def set_codes(self, codes: Tensor) -> None:
        """Takes other codes (N, levels) int64 of the items."""
        if codes.shape != self.codes.shape:
            raise ValueError(f"codes must be of shape {tuple(self.codes.shape)}, got {tuple(codes.shape)}")
        self.codes = codes.to(self.codes.device)
        self.trie = Trie(codes.cpu().numpy()).to(self.codes.device)

    def add_items(self, codes: Tensor) -> None:
        """Items with codes (n, levels) int64 join after training, behind those that there are: they are ranked, and
        read in histories. `tokenizers.collisions.codes_of_new_items` makes such codes.
        """
        if codes.dim() != 2 or codes.shape[1] != self.levels:
            raise ValueError(f"codes must be (n, {self.levels}), got {tuple(codes.shape)}")
        if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= self.codebook_size):
            raise ValueError(f"codes must lie between 0 and {self.codebook_size - 1}")
        self.codes = torch.cat([self.codes, codes.to(self.codes.device)])
        self.trie = Trie(self.codes.cpu().numpy()).to(self.codes.device)

    @property
    def tied_items(self) -> Tensor | None:
        """Items of one tuple."""
        tuples, number = torch.unique(self.codes, dim=0, return_inverse=True)
        return number if len(tuples) < len(self.codes) else None

    @abstractmethod
    def targets(self, index: Tensor) -> Tensor:
        """(B,) int64: the items that are to be predicted in the examples ``index``, on the CPU."""

    @abstractmethod
    def predictions(self, batch: Any) -> Predictions:
        """Of the examples of a batch, in the order of the index that it was made from."""

    def reading(self, batch: Any) -> Reading:
        """That of `predictions`; a model that can have it for less overrides this."""
        return self.predictions(batch).reading

    def loss(self, batch: Any, step: Step) -> Losses:
        """``nll``, in nats per item: the mean over examples of the sum over codes."""
        del step
        nll = self.predictions(batch).nll.mean()
        return {"loss": nll, "nll": nll}

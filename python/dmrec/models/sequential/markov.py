"""The chain of last items: what came after the user's last item in other histories, most often first.

A baseline that knows order and nothing else; items that never followed are ranked by their number of interactions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dmrec_ext import Csr, rank_scores

from ...errors import DmrecError
from ..base import ClosedFormModel, ModelConfig, Scorer, TrainingData, UserBatch, register


@register
class MarkovConfig(ModelConfig):
    """Ranks items by how often they came right after the user's last item."""

    kind: Literal["markov"] = "markov"
    is_random: ClassVar[bool] = False
    reads_sequences: ClassVar[bool] = True

    def build(self, data: TrainingData) -> Markov:
        """The model, not fitted."""
        return Markov(data)


class Markov(ClosedFormModel):
    """Counts of pairs of neighbours."""

    crow: Tensor  # (N + 1,) int64
    col: Tensor  # (pairs,) int64
    values: Tensor  # (pairs,) float32
    popularity: Tensor  # (N,) float32, below 1

    def __init__(self, data: TrainingData) -> None:
        super().__init__()
        pairs = 0 if data.state is None else len(data.state["col"])
        self.register_buffer("crow", torch.zeros(data.n_items + 1, dtype=torch.int64))
        self.register_buffer("col", torch.zeros(pairs, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(pairs))
        self.register_buffer("popularity", torch.zeros(data.n_items))

    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Counts; there is nothing to choose."""
        histories = data.histories
        if histories is None:
            raise DmrecError("markov needs the order of interactions")
        items = histories.items.numpy()
        starts = np.zeros(len(items) + 1, dtype=bool)
        starts[histories.indptr.numpy()] = True
        follows = ~starts[1:-1]  # whether the entry after is the same user's
        ones = np.ones(int(follows.sum()), dtype=np.float32)
        shape = (data.n_items, data.n_items)
        counts = sp.csr_matrix((ones, (items[:-1][follows], items[1:][follows])), shape=shape)
        counts.sum_duplicates()
        self.crow = torch.from_numpy(counts.indptr.astype(np.int64))
        self.col, self.values = torch.from_numpy(counts.indices.astype(np.int64)), torch.from_numpy(counts.data)
        popularity = torch.bincount(data.interactions.col, minlength=data.n_items).float()
        self.popularity = popularity / (popularity.max() + 1)
        return {}

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k items that followed most often; equal counts by popularity."""
        if batch.sequences is None:
            raise DmrecError("markov reads the order of interactions, and there is none")
        length = (batch.sequences >= 0).sum(1)
        last = batch.sequences.gather(1, (length - 1).clamp_min(0)[:, None]).squeeze(1)
        transitions = Csr(self.crow, self.col, self.values, len(self.popularity))
        scores = self.popularity.repeat(len(last), 1)
        followed = transitions.rows(last.clamp_min(0))
        row, known = followed.row_of_entry(), (last >= 0)
        keep = known[row]
        assert followed.values is not None
        scores.index_put_((row[keep], followed.col[keep]), followed.values[keep], accumulate=True)
        return rank_scores(scores, k, exclude=exclude)

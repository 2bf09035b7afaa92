"""The contract of models that write the codes of the next item, with which an alignment of codes can be joined."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from ..base import Losses, Step, TrainedModel


class Predictions(NamedTuple):
    """What a model makes of B examples."""

    nll: Tensor  # (B,) negative log-likelihood of the target's codes, in nats
    history: Tensor  # (B, width): what it has read of each history
    target: Tensor  # (B,) int64 items


class GenerativeModel(TrainedModel):
    """A model over codes of items (`TrainingData.item_codes`)."""

    width: int  # of `Predictions.history`

    @abstractmethod
    def predictions(self, batch: Any) -> Predictions:
        """Of the examples of a batch, in any order."""

    def loss(self, batch: Any, step: Step) -> Losses:
        """``nll``, in nats per item: the mean over examples of the sum over codes."""
        del step
        nll = self.predictions(batch).nll.mean()
        return {"loss": nll, "nll": nll}

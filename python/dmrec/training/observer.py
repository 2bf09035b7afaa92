"""What follows a training run from outside: progress on a terminal, TensorBoard, the pruning of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..runs.run import Run


class Observer:
    """Is called by the training loop. The methods do nothing by default; an exception that one raises ends the run."""

    def on_start(self, run: Run, config: Config, first_epoch: int) -> None:
        """Training begins, with epoch ``first_epoch`` where it is resumed."""

    def on_epoch(self, epoch: int, values: Mapping[str, Any]) -> None:
        """An epoch has ended; ``values`` are its losses, metrics and seconds, as in the log."""

    def on_evaluation(self, epoch: int, metrics: Mapping[str, float], score: float, best: float) -> None:
        """The model was evaluated on validation; ``score`` is the monitored metric and ``best`` the highest so far."""

    def on_end(self) -> None:
        """Training has ended, whatever the reason."""

"""The log for TensorBoard: the same values, by epoch. Needs ``pip install 'dmrec[tensorboard]'``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..config import Config
from ..runs.run import TENSORBOARD, Run
from .observer import Observer


class TensorBoard(Observer):
    """Writes scalars into the run's folder; what a stopped run wrote for a later epoch is replaced."""

    writer: Any = None

    def on_start(self, run: Run, config: Config, first_epoch: int) -> None:
        """Opens the event file."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / TENSORBOARD[0]), purge_step=first_epoch)

    def on_epoch(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Writes the values of an epoch as ``epoch/name``."""
        self._add("epoch", epoch, values)

    def on_evaluation(self, epoch: int, metrics: Mapping[str, float], score: float, best: float) -> None:
        """Writes the metrics as ``evaluation/name``."""
        self._add("evaluation", epoch, metrics)

    def on_end(self) -> None:
        """Closes the event file."""
        if self.writer is not None:
            self.writer.close()

    def _add(self, event: str, epoch: int, values: Mapping[str, Any]) -> None:
        for name, value in _numbers(event, values):
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(f"{prefix}/{name}", value)
        elif isinstance(value, int | float) and name != "epoch":
            yield f"{prefix}/{name}", value

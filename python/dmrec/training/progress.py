"""A training run on a terminal: a live line, or a line every half minute where output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import rich.progress
from rich.console import Console

from ..config import Config
from ..runs.run import Run
from .observer import Observer

SECONDS_BETWEEN_LINES = 30
BAR, OTHERS = 10, 25  # columns of the live line: the bar; the two times, what separates them, spaces


class ProgressBar(Observer):
    """Shows losses and validation scores on ``console``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=BAR),
            rich.progress.TextColumn("{task.completed}/{task.total}"),
            rich.progress.TextColumn("{task.fields[figures]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("<"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def on_start(self, run: Run, config: Config, first_epoch: int) -> None:
        """Starts the live line."""
        self.label, self.epochs, self.first_epoch = config.name, config.epochs, first_epoch
        self.validation, self.losses = "", ""
        self.started = self.reported = time.monotonic()
        self.task = self.bar.add_task(self.label, total=self.epochs, completed=first_epoch - 1, figures="")
        self.bar.start()

    def on_epoch(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Shows the losses of an epoch."""
        shown = {name: value for name, value in values.items() if isinstance(value, float) and name != "seconds"}
        losses = [f"{name} {value:.2f}" for name, value in shown.items()]
        self.losses = " ".join(losses)
        self.bar.update(self.task, completed=epoch, figures=self._fitting([self.validation, *losses]))
        now = time.monotonic()
        if not self.console.is_terminal and now - self.reported >= SECONDS_BETWEEN_LINES:
            left = (now - self.started) / (epoch - self.first_epoch + 1) * (self.epochs - epoch) / 60
            figures = ", ".join(filter(None, (self.losses, self.validation)))
            self.console.print(f"{self.label}: epoch {epoch}, {figures}, at most {left:.0f} min left")
            self.reported = now

    def on_evaluation(self, epoch: int, metrics: Mapping[str, float], score: float, best: float) -> None:
        """Shows the score from now on."""
        self.validation = f"valid {score:.4f} (best {best:.4f})"

    def _fitting(self, figures: Sequence[str]) -> str:
        """The first of the figures that fit into one line with name, bar, epochs and times."""
        room = self.console.width - len(self.label) - 2 * len(str(self.epochs)) - BAR - OTHERS
        chosen: list[str] = []
        for figure in filter(None, figures):
            room -= len(figure) + 1
            if room < 0:
                break
            chosen.append(figure)
        return " ".join(chosen)

    def on_end(self) -> None:
        """Removes the live line."""
        self.bar.stop()

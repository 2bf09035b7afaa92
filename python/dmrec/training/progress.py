"""A training run on a terminal: a live line, or a line every half minute where output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import rich.progress
from rich.console import Console

from ..config import Config
from ..runs.run import Run
from .observer import Observer

SECONDS_BETWEEN_LINES = 30


class ProgressBar(Observer):
    """Shows losses and validation scores on ``console``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.completed}/{task.total} epochs"),
            rich.progress.TextColumn("{task.fields[figures]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("at most"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def on_start(self, run: Run, config: Config, first_epoch: int) -> None:
        """Starts the live line."""
        self.label, self.epochs, self.first_epoch = config.name, config.training.epochs, first_epoch
        self.validation, self.losses = "", ""
        self.started = self.reported = time.monotonic()
        self.task = self.bar.add_task(self.label, total=self.epochs, completed=first_epoch - 1, figures="")
        self.bar.start()

    def on_epoch(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Shows the losses of an epoch."""
        shown = {name: value for name, value in values.items() if isinstance(value, float) and name != "seconds"}
        self.losses = " ".join(f"{name} {value:.2f}" for name, value in shown.items())
        self.bar.update(self.task, completed=epoch, figures=f"{self.losses} {self.validation}".rstrip())
        now = time.monotonic()
        if not self.console.is_terminal and now - self.reported >= SECONDS_BETWEEN_LINES:
            left = (now - self.started) / (epoch - self.first_epoch + 1) * (self.epochs - epoch) / 60
            figures = ", ".join(filter(None, (self.losses, self.validation)))
            self.console.print(f"{self.label}: epoch {epoch}, {figures}, at most {left:.0f} min left")
            self.reported = now

    def on_evaluation(self, epoch: int, metrics: Mapping[str, float], score: float, best: float) -> None:
        """Shows the score from now on."""
        self.validation = f"valid {score:.4f} (best {best:.4f})"

    def on_end(self) -> None:
        """Removes the live line."""
        self.bar.stop()

"""What the person at the terminal sees while a model trains."""

from __future__ import annotations

import time
from types import TracebackType

import rich.progress
from rich.console import Console


class Progress:
    """A live line on a terminal, one line per some evaluations elsewhere; nothing when ``quiet``."""

    def __init__(self, console: Console, label: str, epochs: int, *, quiet: bool = False) -> None:
        self.console, self.label, self.epochs, self.quiet = console, label, epochs, quiet
        self.best = self.score = float("nan")
        self.losses = ""
        self.started = self.reported = time.monotonic()
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
            disable=quiet or not console.is_terminal,
        )
        self.task = self.bar.add_task(label, total=epochs, figures="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def evaluated(self, epoch: int, score: float, best: float) -> None:
        """Takes a validation score; prints a line where there is no live one."""
        self.score, self.best = score, best
        now = time.monotonic()
        if not self.quiet and not self.console.is_terminal and now - self.reported >= 30:
            left = (now - self.started) / epoch * (self.epochs - epoch)
            figures = f"valid {score:.4f} (best {best:.4f})"
            self.console.print(
                f"{self.label}: epoch {epoch}, {self.losses}, {figures}, at most {left / 60:.0f} min left"
            )
            self.reported = now

    def epoch(self, epoch: int, losses: dict[str, float], terms: dict[str, float]) -> None:
        """Takes the losses of an epoch."""
        self.losses = " ".join(f"{name} {value:.2f}" for name, value in {**losses, **terms}.items())
        self.bar.update(
            self.task, completed=epoch, figures=f"{self.losses} valid {self.score:.4f} (best {self.best:.4f})"
        )

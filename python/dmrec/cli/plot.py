"""Validation curves as an image."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..errors import DmrecError
from ..runs.run import Run

SUFFIXES = (".png", ".pdf", ".svg")


def check_plot(path: Path) -> None:
    """Refuses what `plot_validation` could not write."""
    if path.suffix not in SUFFIXES:
        raise DmrecError(f"{path}: the ending says what image to write; known: {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise DmrecError("plots need matplotlib: pip install 'dmrec[plot]'")


def plot_validation(folders: Sequence[Path], metric: str, dataset: str, path: Path) -> None:
    """The metric over training time, a curve per run; baselines, which have no time, as level lines."""
    from matplotlib.figure import Figure  # an extra: not to be imported by other commands

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    styles = iter(("--", ":", "-.", "--", ":", "-."))
    for folder in folders:
        run = Run.open(folder)
        if not run.events("epoch"):
            axes.axhline(run.result["valid"][metric], color="0.4", linestyle=next(styles), label=run.config.name)
            continue
        start = run.events("start")[0]["time"]
        events = run.events("evaluation")
        axes.plot([e["time"] - start for e in events], [e[metric] for e in events], label=run.config.name)
    axes.set(title=f"{dataset}, one line per model", xlabel="seconds of training", ylabel=f"validation {metric}")
    axes.legend()
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)

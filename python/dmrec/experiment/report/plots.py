"""Validation curves as an image, with matplotlib: ``pip install 'dmrec[plot]'``."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import DmrecError
from ...runs.run import Run

SUFFIXES = (".png", ".pdf", ".svg")


def check_plot(path: Path) -> None:
    """Checks that an image can be written to ``path``.

    Raises:
        DmrecError: the suffix is unknown, or matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise DmrecError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise DmrecError("plots need matplotlib: pip install 'dmrec[plot]'")


def plot_validation(folders: Sequence[Path], metric: str, dataset: str, path: Path) -> None:
    """Plots a metric on validation over the seconds of training, without those of evaluation and start.

    A thin line for each run, runs of a model in one colour, and a dot at the epoch that was chosen.

    Args:
        folders: the runs. One of a model that is not trained in epochs is a level line.
        metric: a metric that all of them evaluated, such as ``recall@20``.
        dataset: the name of the dataset, for the title.
        path: where the image is written; see `check_plot`.

    Raises:
        DmrecError: a run has not evaluated the metric.
    """
    from matplotlib.figure import Figure  # an extra, which other commands must not import

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    styles = itertools.cycle(("--", ":", "-."))
    colours: dict[str, str] = {}
    for folder in folders:
        run = Run.open(folder)
        name = run.config.name
        label = None if name in colours else name
        epochs = {event["epoch"]: event["seconds"] for event in run.events("epoch")}
        if not epochs:
            if label is not None:
                colours[name] = "0.4"
                axes.axhline(run.result["valid"][metric], color="0.4", linestyle=next(styles), label=label)
            continue
        clock = dict(zip(epochs, itertools.accumulate(epochs.values()), strict=True))
        points = [(clock[e["epoch"]], e[metric], e["epoch"]) for e in run.events("evaluation") if metric in e]
        if not points:
            raise DmrecError(f"{folder} has no validation {metric} in its log")
        colour = colours.setdefault(name, f"C{len(colours)}")
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=colour, linewidth=1, label=label)
        best = run.result.get("best_epoch") if run.state()[0] == "finished" else None
        axes.plot([x for x, _, e in points if e == best], [y for _, y, e in points if e == best], "o", color=colour)
    axes.set(title=f"{dataset}: validation, dots at the chosen epochs", xlabel="seconds of training", ylabel=metric)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plot_codes(codes: np.ndarray, size: int, name: str, path: Path) -> None:
    """Plots how often the codes (N, levels) of each level are used, most used first; a flat line is an even use.

    Args:
        codes: of all items.
        size: codes of a level.
        name: of the codes, for the title.
        path: where the image is written; see `check_plot`.
    """
    from matplotlib.figure import Figure

    check_plot(path)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for level in range(codes.shape[1]):
        counts = np.sort(np.bincount(codes[:, level], minlength=size))[::-1]
        axes.step(np.arange(1, size + 1), counts, where="mid", label=f"level {level + 1}: {(counts > 0).sum()} used")
    axes.axhline(len(codes) / size, color="0.4", linestyle="--", label="even use")
    title = f"codes '{name}' of {len(codes)} items"
    axes.set(title=title, xlabel="codes, most used first", ylabel="items", yscale="symlog")
    axes.legend()
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)

"""``dmrec plot``: pictures of runs that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DmrecError
from ..experiment.report.plots import check_plot, plot_validation
from ..runs.run import Run, seed_folders
from .console import notify


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or of models with all their seeds.")],
    out: Annotated[Path, typer.Option(help="Image to write: .png, .pdf or .svg.", show_default=False)],
    metric: Annotated[
        str | None, typer.Option(help="Metric on validation. Default: training.monitor of the first.")
    ] = None,
) -> None:
    """Draw validation over the seconds of training, of finished runs or of running ones. Needs `pip install
    'dmrec[plot]'`.

    All figures of an experiment are drawn by `dmrec experiment report --html`.

    Examples:

    - `dmrec plot runs/ml-100k/mult-vae runs/ml-100k/dmrec-m --out curves.png`
    """
    check_plot(out)
    folders = [each for folder in runs for each in (seed_folders(folder) or [Run.open(folder).folder])]
    names = {Run.open(folder).events("start")[0]["dataset"] for folder in folders}
    if len(names) > 1:
        raise DmrecError(f"these are runs on several datasets ({', '.join(sorted(names))}): plot them apart")
    plot_validation(folders, metric or Run.open(folders[0]).config.training.monitor, names.pop(), out)
    notify(f"validation curves: {out}")

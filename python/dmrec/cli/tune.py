"""``dmrec tune``: options searched on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import build_config, read_config
from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..experiment.tuning import BEST, read_space, rows, search
from ..options import apply_overrides, deep_merge
from ..recipes import recipe as values_of
from .console import errors, print_table


def tune(
    recipe: Annotated[str, typer.Argument(help="What to tune.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.", show_default=False)],
    trials: Annotated[int, typer.Option(min=1, help="Finished or pruned ones, with those of before.")] = 30,
    space: Annotated[Path | None, typer.Option(help="YAML: what is searched. Default: what the model has.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML over the recipe.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One option.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: tuning/RECIPE.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
) -> None:
    """Search beta, dropout, learning rate and widths by the best score on validation; the test is never looked at.

    Needs `pip install 'dmrec[tune]'`. All trials stay in `study.db`, the best options in `best.yaml`. Stop it and start
    it again: it goes on.

    Examples:

    - `dmrec tune dmrec-m --data data/shop --trials 50`
    - `dmrec tune cvga-m --data data/shop --space space.yaml`, with lines like `matching.beta: {low: 0, high: 1}`
    - `dmrec train dmrec-m --config tuning/dmrec-m/best.yaml --data data/shop --seeds 5`
    """
    values = apply_overrides(deep_merge(values_of(recipe), read_config(config) if config else {}), settings or [])
    if not build_config(values).model.is_random:
        raise DmrecError(f"'{recipe}' has nothing to search: it needs no training")
    dataset, out = open_dataset(data), out or Path("tuning") / recipe
    searched = read_space(space, values)
    errors.print(f"searching {', '.join(searched)} on the validation of {dataset.name}: {out}", highlight=False)
    try:
        search(values, searched, dataset, out, trials, seed, errors)
    except KeyboardInterrupt:
        errors.print("stopped; the same command goes on", highlight=False)
        raise typer.Exit(130) from None
    listed = sorted(rows(out, values["name"]), key=lambda row: -(row["score"] or -1.0))[:10]
    table = [[row["trial"], row["state"], row["score"], *(row.get(key) for key in searched)] for row in listed]
    print_table(f"the best of {trials} trials", ["trial", "state", "score", *searched], table, numbers_from=2)
    errors.print(f"best options: {out / BEST}", highlight=False)

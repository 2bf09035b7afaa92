"""``dmrec tune``: searches hyperparameters on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import build_config, read_config
from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..experiment.tuning import BEST, best_trials, read_space, search
from ..options import LARGEST_SEED, apply_overrides, deep_merge
from ..recipes import recipe as values_of
from .console import DEVICE, notify, print_table


def tune(
    recipe: Annotated[str, typer.Argument(help="Recipe to tune.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.", show_default=False)],
    trials: Annotated[int, typer.Option(min=1, help="Number of trials, including those of earlier calls.")] = 30,
    space: Annotated[
        Path | None, typer.Option(help="YAML: the options to search. Default: those of the model's search space.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with options for the recipe.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One option; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    out: Annotated[Path | None, typer.Option(help="Default: tuning/RECIPE.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the search.")] = 0,
) -> None:
    """Search beta, dropout, learning rate and widths for the best score on validation. The test data is not used.

    Needs `pip install 'dmrec[tune]'`. All trials are kept in `study.db`, and the best options in `best.yaml`. You can
    stop the search and run the same command again to continue it.

    Examples:

    - `dmrec tune dmrec-m --data data/shop --trials 50`
    - `dmrec tune cvga-m --data data/shop --space space.yaml`, with lines like `matching.beta: {low: 0, high: 1}`
    - `dmrec train dmrec-m --config tuning/dmrec-m/best.yaml --data data/shop --seeds 5`
    """
    overrides = [*(settings or []), *([f"training.device={device}"] if device else [])]
    values = apply_overrides(deep_merge(values_of(recipe), read_config(config) if config else {}), overrides)
    if not build_config(values).model.is_random:
        raise DmrecError(f"'{recipe}' has nothing to search: it needs no training")
    dataset, out = open_dataset(data), out or Path("tuning") / recipe
    searched = read_space(space, values)
    notify(f"searching {', '.join(searched)} on the validation interactions of {dataset.name}: {out}")
    try:
        search(values, searched, dataset, out, trials, seed, notify)
    except KeyboardInterrupt:
        notify("stopped; run the same command again to continue")
        raise typer.Exit(130) from None
    best = [
        [trial["trial"], trial["state"], trial["score"], *(trial.get(key) for key in searched)]
        for trial in best_trials(out, values["name"], 10)
    ]
    print_table(f"the best of {trials} trials", ["trial", "state", "score", *searched], best, numbers_from=2)
    notify(f"best options: {out / BEST}")

"""``dmrec train``: one or several recipes on one dataset, beside the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import Config, build_config, overlaid, read_config, with_settings
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..recipes import BASELINES, RECIPES, recipe
from ..train.train import EASE_ITEMS
from ..train.train import train as train_config
from .console import errors, output, print_table
from .plot import plot_validation

RECIPE_LIST = "\n".join(f"- `{name}`: {make.__doc__}" for name, make in RECIPES.items())
HELP = f"""Train and test models; popularity and EASE are trained beside them.

Recipes:

{RECIPE_LIST}

Examples:

- `dmrec train dmrec-m --data data/ml-100k`
- `dmrec train mult-vae dmrec-m --data data/ml-100k --seeds 5 --plot curves.png`
- `dmrec train dmrec-g --data data/shop --set matching.beta=0.8 --set training.epochs=300`
- `dmrec train --config my.yaml --data data/shop --precision bf16`
"""


def train(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE]...", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Each run becomes a folder in here.")] = Path("runs"),
    config: Annotated[Path | None, typer.Option(help="YAML over the recipe, or a whole configuration.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One option.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; figures become means and deviations.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    precision: Annotated[str | None, typer.Option(help="float32 or bf16 (matrix products).")] = None,
    baselines: Annotated[bool, typer.Option(help="Train popularity and EASE, too.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Save validation curves as an image.")] = None,
) -> None:
    """Replaced by HELP below."""
    over = read_config(config) if config else {}
    settings = list(settings or [])
    if precision:
        settings.append(f"training.precision={precision}")
    if recipes:
        named = [recipe(name) for name in dict.fromkeys(recipes)]
        configs = [build_config(with_settings(overlaid(values, over), settings)) for values in named]
    elif over:
        configs = [build_config(with_settings(over, settings))]
    else:
        raise DmrecError(f"name a recipe ({', '.join(RECIPES)}) or give --config")
    location = data or configs[0].data
    if location is None:
        raise DmrecError("name the dataset: --data FOLDER")
    dataset = open_dataset(location)
    if baselines:
        configs = [*_baselines(configs, dataset), *configs]
    rows = []
    for each in configs:
        figures = train_config(each, dataset, out / each.name, range(seed, seed + seeds), errors)
        rows.append(figures)
        errors.print(f"{each.name}: done in {out / each.name}", highlight=False)
    _print_results(dataset, rows, configs[-1].evaluation.metrics)
    if plot is not None:
        plot_validation([out / each.name for each in configs], configs[-1].training.monitor, dataset.name, plot)
        output.print(f"validation curves: {plot}", highlight=False)


train.__doc__ = HELP


def _baselines(configs: list[Config], dataset: Dataset) -> list[Config]:
    """The baselines that were not asked for by name, measured like the first configuration."""
    first, named = configs[0], {each.name for each in configs}
    wanted = [name for name in BASELINES if name not in named]
    if "ease" in wanted and dataset.n_items > EASE_ITEMS:
        errors.print(f"ease: left out, {dataset.n_items} items are too many for its items x items matrix")
        wanted.remove("ease")
    same = {"training": {"monitor": first.training.monitor}, "evaluation": first.evaluation.model_dump()}
    return [build_config(overlaid(recipe(name), same)) for name in wanted]


def _print_results(dataset: Dataset, rows: list[dict[str, Any]], metrics: tuple[str, ...]) -> None:
    shown = [m for m in metrics if m.endswith(("@10", "@20"))] or list(metrics)
    table = []
    for row in rows:
        deviation = row.get("test_deviation")
        figures = [f"{row['test'][m]:.4f}" + (f" ±{deviation[m]:.4f}" if deviation else "") for m in shown]
        speed = row.get("seconds_per_epoch")
        table.append([row["name"], *figures, row.get("best_epoch"), f"{speed:.2f}" if speed else None])
    title = f"{dataset.name}: test, {rows[-1]['test_users']} users"
    print_table(title, ["model", *shown, "best epoch", "s/epoch"], table)
    vectors = sorted({row["vectors"] for row in rows if row.get("vectors")})
    if vectors:
        output.print(f"text vectors: {', '.join(vectors)}; seeds: {rows[-1]['seed']}", highlight=False)

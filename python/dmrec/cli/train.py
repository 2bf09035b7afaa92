"""``dmrec train``: one or several recipes on one dataset, beside the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import Config, build_config, read_config, with_settings
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..experiment.plan import Job, grid
from ..experiment.report import collect, summary
from ..experiment.runner import alone_in, check_folder, forget, open_jobs, run_jobs
from ..recipes import BASELINES, DATASETS, RECIPES, recipe
from ..sections import overlaid
from ..train.build import resolve
from ..train.run import LOCK, in_use, is_finished
from ..train.train import EASE_ITEMS, resume_run
from ..train.train import train as train_config
from .console import errors, output, print_table
from .plot import check_plot, plot_validation

RECIPE_LIST = "\n".join(f"- `{name}`: {make.__doc__}" for name, make in RECIPES.items())
HELP = f"""Train and test models; popularity and EASE are trained beside them.

Recipes:

{RECIPE_LIST}

With what was published for a dataset ({", ".join(DATASETS)}): `dmrec-m.yelp` and the like.

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
    seed: Annotated[int | None, typer.Option(min=0, help="The first seed. Default: training.seed.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bf16 (matrix products).")] = None,
    baselines: Annotated[bool, typer.Option(help="Train popularity and EASE, too.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Save validation curves as an image.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace finished runs of the same name.")] = False,
) -> None:
    """Replaced by HELP below."""
    settings = [*(settings or []), *([f"training.precision={precision}"] if precision else [])]
    configs = compose(list(recipes or []), read_config(config) if config else {}, settings)
    location = data or configs[0].data
    if location is None:
        raise DmrecError("name the dataset: --data FOLDER")
    dataset = open_dataset(location)
    if baselines:
        configs = [*_baselines(configs, dataset), *configs]
    first = {each.name: each.training.seed if seed is None else seed for each in configs}
    # all that can be refused is refused before the first epoch of the first model
    resolved = [resolve(each, dataset, first[each.name]) for each in configs]
    finished = [str(out / each.name) for each in configs if is_finished(out / each.name)]
    if plot is not None:
        check_plot(plot)
    if seeds > 1:
        jobs = [
            job
            for each in configs
            for job in grid(each, [dataset], range(first[each.name], first[each.name] + seeds), out)
        ]
        _train_grid(jobs, dataset, out, force)
        if plot is not None:
            plot_validation(
                [out / dataset.name / each.name for each in configs], configs[-1].training.monitor, dataset.name, plot
            )
        return
    if finished and not force and seeds == 1:
        raise DmrecError(f"{', '.join(finished)}: finished runs; name another folder (--out) or replace them (--force)")
    for each in configs:
        if (out / each.name / LOCK).exists():
            with in_use(out / each.name):  # refused now, not after hours
                pass

    rows: list[dict[str, Any]] = []
    try:
        for each in resolved:
            rows.append(train_config(each, dataset, out / each.name, first[each.name], errors, replace=force))
            errors.print(f"{each.name}: done in {out / each.name}", highlight=False)
    except KeyboardInterrupt:
        _say_how_to_go_on(out / configs[len(rows)].name)
        raise typer.Exit(130) from None
    finally:
        if rows:
            _print_results(dataset, rows, configs[-1].evaluation.metrics)
    if plot is not None:
        plot_validation([out / each.name for each in configs], configs[-1].training.monitor, dataset.name, plot)
        output.print(f"validation curves: {plot}", highlight=False)


train.__doc__ = HELP


def resume(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was stopped.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
) -> None:
    """Go on with a run that was stopped or killed, from its last checkpoint: as if it never had been, to the bit.

    Examples:

    - `dmrec resume runs/dmrec-m`
    """
    try:
        result = resume_run(run, data, errors)
    except KeyboardInterrupt:
        _say_how_to_go_on(run)
        raise typer.Exit(130) from None
    figures = ", ".join(f"{metric} {value:.4f}" for metric, value in result["test"].items())
    errors.print(f"{result['name']}: done in {run}", highlight=False)
    output.print(f"test: {figures}", highlight=False)


def _train_grid(jobs: list[Job], dataset: Dataset, out: Path, force: bool) -> None:
    """Several seeds: an experiment. What is finished stays, unless ``force`` replaces it."""
    try:
        with alone_in(out):
            if force:
                forget(jobs, out)
            check_folder(out, jobs, "replace them (--force)")
            run_jobs(open_jobs(jobs, out, retry=True), out, errors, workers=1)
    except KeyboardInterrupt:
        errors.print("stopped; the same command goes on", highlight=False)
        raise typer.Exit(130) from None
    cells, failed = collect(out)
    wanted = {(job.dataset, job.model) for job in jobs}
    rows = [each for each in summary(cells) if (each["dataset"], each["name"]) in wanted]
    failed = [row for row in failed if (row["dataset"], row["model"]) in wanted]
    if rows:
        _print_results(dataset, rows, jobs[-1].config.evaluation.metrics)
    if failed:
        raise DmrecError("; ".join(f"{row['model']}, seed {row['seed']}: {row['error']}" for row in failed))


def _say_how_to_go_on(folder: Path) -> None:
    unfinished = [folder, *sorted(folder.glob("seed-*"))]
    stopped = [each for each in unfinished if any(each.glob("state-*.json"))]
    if stopped:
        errors.print(f"stopped; go on with: dmrec resume {stopped[-1]}", highlight=False)
    else:
        errors.print(f"interrupted before the first checkpoint of {folder}", highlight=False)


def compose(recipes: list[str], over: dict[str, Any], settings: list[str]) -> list[Config]:
    """Configurations from recipes, a file's values and single settings.

    With several recipes, options of `language` and `matching` go to those that have these sections.
    """
    if not recipes and not over:
        raise DmrecError(f"name a recipe ({', '.join(RECIPES)}) or give --config")
    bases = [recipe(name) for name in dict.fromkeys(recipes)] or [{}]
    configs = []
    for values in bases:
        foreign = {"language", "matching"} - values.keys() if _some_have_language(bases) else set()
        mine = {section: value for section, value in over.items() if section not in foreign}
        chosen = [setting for setting in settings if setting.split(".")[0].split("=")[0] not in foreign]
        try:
            configs.append(build_config(with_settings(overlaid(values, mine), chosen)))
        except DmrecError as error:
            raise DmrecError(f"{values['name']}: {error}" if len(bases) > 1 else str(error)) from None
    if len({each.name for each in configs}) < len(configs):
        raise DmrecError("two recipes cannot have one name; leave 'name' out, or train them one after the other")
    return configs


def _some_have_language(bases: list[dict[str, Any]]) -> bool:
    return any("language" in values for values in bases)


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

"""``dmrec train``: one or several recipes on one dataset, together with the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import NLL, Config, EvaluationConfig, ShardingConfig, build_config, read_config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..experiment.comparisons import collect, summary
from ..experiment.ledger import ROWS, check_folder, delete_runs, experiment_lock, pending_jobs
from ..experiment.plan import Job, grid
from ..experiment.report.plots import check_plot, plot_validation
from ..experiment.runner import run_jobs, run_jobs_here
from ..experiment.together import follow, lead
from ..experiment.worker import train_or_resume
from ..options import LARGEST_SEED, apply_overrides, deep_merge
from ..recipes import BASELINES, DATASETS, RECIPES, compose, recipe
from ..runs.load import check_count
from ..runs.ranks import begun_before
from ..runs.resolve import final_config
from ..runs.run import Run, is_finished, run_lock
from ..runtime import resolve_device, slow_precision
from ..sharding.ranks import ALONE, agreed
from ..training.progress import ProgressBar
from ..training.trainer import check_resumable, resume_run
from .console import DEVICE, errors, notify, output, print_table
from .plan import check_memory, check_memory_of_run
from .ranks import SHARDS, RanksOption, are_together, notify_once, sharding_of, start, together

REPLACE = "replace them (--force)"
RECIPE_LIST = "\n".join(f"- `{name}`: {make.__doc__}" for name, make in RECIPES.items())
HELP = f"""Train and test models, together with the baselines popularity and EASE.

A run is kept in OUT/DATASET/MODEL/seed-S. What is finished stays; what was stopped is continued by the same command.

Recipes:

{RECIPE_LIST}

With the settings published for a dataset ({", ".join(DATASETS)}): `dmrec-m.yelp` and the like.

Examples:

- `dmrec train dmrec-m --data data/ml-100k`
- `dmrec train mult-vae dmrec-m --data data/ml-100k --seeds 5 --plot curves.png`
- `dmrec train dmrec-g --data data/shop --set matching.beta=0.8 --set training.epochs=300`
- `dmrec train --final runs/shop/dmrec-m`
- `dmrec train dmrec-m --data data/shop-this-week --from runs/shop/dmrec-m --set training.patience=5`
- `dmrec train --config my.yaml --data data/shop --device cuda --precision bf16`
- `dmrec train dmrec-m --data data/large --ranks 8`
"""


def train(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE]...", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder that the runs are kept in.")] = Path("runs"),
    config: Annotated[Path | None, typer.Option(help="YAML over the recipe, or a whole configuration.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option, such as training.epochs=50; repeatable."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds; with several, means and standard deviations are printed.")
    ] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_SEED, help="First seed. Default: training.seed.")
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bf16, or auto: whichever is faster here.")] = None,
    baselines: Annotated[bool, typer.Option(help="Train popularity and EASE, too.")] = True,
    final: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a finished run: train it again on all interactions, for use, as MODEL-final.",
            show_default=False,
        ),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Folder of a finished run on earlier data: start from its weights.", show_default=False
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Save validation curves as an image.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Train anew what is finished or was stopped.")] = False,
    ranks: RanksOption = None,
) -> None:
    """Replaced by HELP below."""
    shared = are_together(ranks)
    given = {"device": device, "precision": precision, "initial": initial}
    overrides = [*(settings or []), *(f"training.{name}={value}" for name, value in given.items() if value)]
    if final is not None:
        if recipes or config or seeds > 1 or plot is not None:
            raise DmrecError("--final takes everything from the run: leave out recipes, --config, --seeds and --plot")
        of_run = final_config(Run.open(final)).model_dump(mode="json")
        if shared and of_run["sharding"]["shards"] == 1:
            of_run["sharding"]["shards"] = SHARDS
        configs = [build_config(apply_overrides(of_run, overrides))]
        notify_once(_describe_final(configs[0]), ranks)
    else:
        values = read_config(config) if config else {}
        if shared:
            values = deep_merge({"sharding": {"shards": SHARDS}}, values)
        configs = compose(list(recipes or []), values, overrides)
    location = data or configs[0].data
    if location is None:
        raise DmrecError("name the dataset: --data FOLDER")
    dataset = open_dataset(location)
    if baselines and final is None and not shared:  # they are fitted in one process
        configs = [*_baselines(configs, dataset), *configs]
    # everything that can be refused is refused before the first epoch of the first model
    jobs = [job for each in configs for job in grid(each, [dataset], _seeds(each, seed, seeds), out)]
    if plot is not None:
        check_plot(plot)
    asked = {(job.config.training.precision, job.config.training.device) for job in jobs}
    for remark in {slow_precision(chosen, resolve_device(where)) for chosen, where in asked} - {None}:
        notify_once(str(remark), ranks)
    for vectors in dict.fromkeys(job.config.language.vectors for job in jobs if job.config.language):
        if vectors is not None and (missing := dataset.without_text(vectors)):
            notify_once(f"{dataset.name}: {missing}", ranks)
    if ranks is not None:
        check_count(ranks, jobs[0].config.sharding)
        for job in jobs:
            check_memory(job.config, dataset, ranks)
        with experiment_lock(out):
            check_folder(out, jobs, REPLACE, replace=force)
        start(ranks)
    try:
        with together(jobs[0].config.sharding) if shared else nullcontext(ALONE) as of_all:
            for job in jobs:
                check_memory(job.config, dataset, of_all)
            again = begun_before(of_all, out)
            if not of_all.is_first:
                follow(of_all, notify)
                return
            with experiment_lock(out):
                if force and not again:
                    delete_runs(jobs, out)
                check_folder(out, jobs, REPLACE)
                left = pending_jobs(jobs, out, retry=not again)
                for job in jobs:
                    if job not in left:
                        notify(f"{job.model}: finished before in {job.folder} (--force trains it again)")
                if shared:
                    lead(left, out, notify, [ProgressBar(errors)], of_all)
                elif seeds == 1:
                    run_jobs_here(
                        left, out, lambda job: train_or_resume(job.folder, notify, [ProgressBar(errors)]), notify
                    )
                else:
                    run_jobs(left, out, notify)
    except KeyboardInterrupt:
        if not output.quiet:
            notify("stopped; run the same command again to continue")
        raise typer.Exit(130) from None
    finally:
        failures = [] if output.quiet else _print_results(jobs, out, dataset)
    if failures:
        raise agreed(DmrecError("; ".join(failures)))
    if plot is not None:
        plot_validation([job.folder for job in jobs], configs[-1].training.monitor, dataset.name, plot)
        output.print(f"validation curves: {plot}")


train.__doc__ = HELP


def _describe_final(config: Config) -> str:
    epochs = f" for {config.epochs} epochs, the best on validation" if config.model.is_random else ""
    return f"{config.name}: trains on all interactions{epochs}"


def resume(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was stopped.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto. Default: the device of the run.")] = None,
    ranks: RanksOption = None,
) -> None:
    """Continue a run that was stopped or killed from its last checkpoint, as if it had never been stopped, bit for bit.

    A run whose items are cut into shards can be continued by another number of processes.

    Examples:

    - `dmrec resume runs/ml-100k/dmrec-m/seed-0`
    - `dmrec resume runs/large/dmrec-m/seed-0 --ranks 4`
    """
    shared = are_together(ranks)
    if ranks is not None:
        check_resumable(run)
        with run_lock(run):  # nobody else trains there
            check_count(ranks, sharding_of(run))
        check_memory_of_run(run, data, device, ranks)
        start(ranks)
    sharding = sharding_of(run) if shared else ShardingConfig()
    try:
        with together(sharding) if shared else nullcontext(ALONE) as of_all:
            if begun_before(of_all, run) and any(of_all.any(is_finished(run))):  # before a process died at its end
                return
            check_memory_of_run(run, data, device, of_all)
            result = resume_run(run, data, [ProgressBar(errors)], device=device, ranks=of_all)
            if not of_all.is_first:
                return
    except KeyboardInterrupt:
        if not output.quiet:
            notify(f"stopped; continue with: dmrec resume {run}")
        raise typer.Exit(130) from None
    notify(f"{result['name']}: done in {run}")
    for split in ("valid", "test"):
        if result[split] and (split == "test" or not result["test"]):
            output.print(f"{split}: {', '.join(f'{metric} {value:.4f}' for metric, value in result[split].items())}")


def _seeds(config: Config, first: int | None, count: int) -> range:
    start = config.training.seed if first is None else first
    return range(start, start + count)


def _baselines(configs: list[Config], dataset: Dataset) -> list[Config]:
    """The baselines that are not among the configurations, measured like the first configuration."""
    first, named = configs[0], {each.name for each in configs}
    monitor = first.evaluation.metrics[-1] if first.training.monitor == NLL else first.training.monitor
    same = {
        "training": {"monitor": monitor, "device": first.training.device},
        "evaluation": first.evaluation.model_dump(),
    }
    found = []
    for name in BASELINES:
        config = build_config(deep_merge(recipe(name), same))
        if name in named:
            continue
        if refusal := config.model.refusal(dataset.n_users, dataset.n_items):
            notify(f"{name}: left out. {refusal}")
        else:
            found.append(config)
    return found


def _print_results(jobs: Sequence[Job], out: Path, dataset: Dataset) -> list[str]:
    """A row for each model with finished runs; returns what failed."""
    if not (out / ROWS).exists():
        return []
    cells, failed = collect(out)
    wanted = {(job.dataset, job.model) for job in jobs}
    rows = [each for each in summary(cells) if (each["dataset"], each["name"]) in wanted]
    if rows and rows[0]["measured"]:
        _print_table(dataset, rows, jobs[-1].config.evaluation)
    return [
        f"{row['model']}, seed {row['seed']}: {row['error']}"
        for row in failed
        if (row["dataset"], row["model"]) in wanted
    ]


def _print_table(dataset: Dataset, rows: list[dict[str, Any]], options: EvaluationConfig) -> None:
    shown = [m for m in options.metrics if m.endswith(("@10", "@20"))] or list(options.metrics)
    table = []
    for row in rows:
        deviation = row.get("test_deviation")
        figures = [f"{row['test'][m]:.4f}" + (f" ±{deviation[m]:.4f}" if deviation else "") for m in shown]
        speed, epochs = row.get("seconds_per_epoch"), ", ".join(map(str, row.get("best_epoch", []))) or None
        table.append([row["name"], *figures, epochs, f"{speed:.2f}" if speed else None])
    split, users = rows[-1]["measured"], rows[-1]["test_users"]
    if split == "valid":
        users = int((dataset.interactions(split).crow.diff() > 0).sum())
        users = min(users, options.users or users)
    print_table(f"{dataset.name}: {split}, {users} users", ["model", *shown, "best epoch", "s/epoch"], table)
    for row in rows:
        if row.get("epoch_limit") in row.get("best_epoch", []):
            output.print(
                f"{row['name']}: the best epoch is the last: it may improve with more "
                f"(--set training.epochs={2 * row['epoch_limit']})"
            )
    vectors = sorted({row["vectors"] for row in rows if row.get("vectors")})
    if vectors:
        seeds = ", ".join(map(str, rows[-1]["seed"]))
        output.print(f"text vectors: {', '.join(vectors)}; seeds: {seeds}")

"""``dmrec evaluate``: metrics of a finished run."""

from __future__ import annotations

import json
import math
import re
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from ..config import EvaluationConfig
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..eval.groups import equal_groups
from ..eval.ranking import Evaluation
from ..eval.ranking import evaluate as evaluate_model
from ..inference.rankings import read_rankings
from ..models.base import TrainingData
from ..runs.load import check_count, held_out_split, load_run, test_data, test_exclusions
from ..runs.ranks import check_ranks
from ..runtime import device_of
from ..sharding.ranks import ALONE, Ranks
from .console import notify, print_table
from .ranks import RanksOption, are_together, sharding_of, start, together
from .runs import notify_of_seed
from .tables import Columns, check_ending, write_rows


class Split(StrEnum):
    """Held-out interactions to rank for."""

    valid = "valid"
    test = "test"


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Folder of a run.", show_default=False)] = None,
    split: Annotated[Split, typer.Option(help="Which held-out interactions.")] = Split.test,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Like recall@50; repeatable.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder, if it moved, or of --rankings.", show_default=False)
    ] = None,
    rankings: Annotated[
        Path | None,
        typer.Option(
            help="In place of a run: a table of rankings made elsewhere, with columns user, item, score.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        str, typer.Option(help="Column of --rankings to rank by, largest first; none: rows are in order.")
    ] = "score",
    per_user: Annotated[
        Path | None, typer.Option(help="Table of every user's values: .csv, .parquet or .jsonl.", show_default=False)
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Means by number of training interactions: borders, like 5,10,20, or equal:4, four groups with equal "
            "shares of all interactions."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto (the GPU where there is one).")] = "cpu",
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Use the best state so far of a run that is not finished.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ranks: RanksOption = None,
) -> None:
    """Rank all items for every user again and print the metrics.

    recall, precision, hit, ndcg, mrr, map, novelty, diversity, coverage and gini, each at any K, and auc.

    Examples:

    - `dmrec evaluate runs/ml-100k/dmrec-m`
    - `dmrec evaluate runs/ml-100k/dmrec-m --split valid --metric recall@50 --metric map@50 --json`
    - `dmrec evaluate runs/ml-100k/dmrec-m --groups 5,10,20 --per-user users.parquet`
    - `dmrec evaluate --rankings theirs.csv --data data/ml-100k --metric recall@20 --metric novelty@20`
    """
    if (run is None) == (rankings is None):
        raise DmrecError("name either the folder of a run or --rankings")
    check_groups(groups)
    if per_user is not None:
        check_ending(per_user)
    if are_together(ranks):
        if run is None:
            raise DmrecError("--ranks is for a run whose items are cut into shards: leave it out")
        sharding = sharding_of(run)
        if ranks is not None:
            check_count(ranks, sharding)
            start(ranks)
        with together(sharding) as of_all:
            measured = _of_run(run, data, split, metrics, device, unfinished, of_all)
        if not of_all.is_first:
            return
    elif rankings is not None:
        measured = _of_rankings(rankings, data, score, split, metrics)
    else:
        measured = _of_run(run or Path(), data, split, metrics, device, unfinished, ALONE)
    name, source, dataset, users, result = measured
    interactions = users.interactions.crow.diff()[result.users]
    if per_user is not None:
        whole = {"user": [dataset.users[u].id for u in result.users.tolist()], "interactions": interactions.tolist()}
        whole |= {"held_out": result.n_held_out.tolist()}
        whole |= {metric: values.tolist() for metric, values in result.values.items()}
        columns: Columns = {"user": str, "interactions": int, "held_out": int} | dict.fromkeys(result.values, float)
        write_rows(per_user, (dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)), columns)
    by_group = {}
    for label, low, high in _ranges(_borders(groups, interactions.numpy())):
        chosen = (interactions >= low) & (interactions < high)
        means = result.means_of(chosen)
        by_group[label] = {"users": int(chosen.sum()), **(means if chosen.any() else dict.fromkeys(means))}
    if as_json:
        found = {"run": source, "split": split, "users": result.n_users, **result.means}
        found |= {"random_ties": result.random_ties} if result.random_ties else {}
        typer.echo(json.dumps(found | ({"groups": by_group} if by_group else {})))
        return
    title = f"{name} on {dataset.name}: {split}, {result.n_users} users"
    print_table(title, ["metric", "mean"], list(result.means.items()))
    if result.random_ties:
        title = "over all orders of items that share their codes"
        print_table(title, ["metric", "mean"], list(result.random_ties.items()))
    if by_group:
        rows = [[label, *figures.values()] for label, figures in by_group.items()]
        print_table("by training interactions", ["interactions", *next(iter(by_group.values()))], rows)


class Measured(NamedTuple):
    """What is measured, on which data, and the figures."""

    name: str
    source: str
    dataset: Dataset
    users: TrainingData
    result: Evaluation


def _of_run(
    run: Path,
    data: Path | None,
    split: Split,
    metrics: list[str] | None,
    device: str,
    unfinished: bool,
    ranks: Ranks,
) -> Measured:
    loaded = load_run(run, data, device_of(device, ranks), unfinished=unfinished, ranks=ranks)
    opened, dataset, model, users = loaded
    check_ranks(ranks, dataset)
    if ranks.is_first:
        notify_of_seed(run, opened.folder)
    held_out = held_out_split(opened.config, dataset, split)
    exclude = None
    if split is Split.test:
        users, exclude = test_data(opened.config, dataset, users), test_exclusions(opened.config, dataset)
    options = opened.config.evaluation
    wanted = metrics or options.metrics
    choice: dict[str, Any] = {"exclude_seen": options.exclude_seen, "exclude": exclude, "n_users": options.users}
    result = evaluate_model(model, users, held_out, wanted, **choice)
    return Measured(opened.config.name, str(opened.folder), dataset, users, result)


def _of_rankings(rankings: Path, data: Path | None, score: str, split: Split, metrics: list[str] | None) -> Measured:
    """Training items are left out of the lists, as of those of our models."""
    if data is None:
        raise DmrecError("--rankings needs --data, the dataset whose held-out items are looked for")
    dataset = open_dataset(data)
    model = read_rankings(rankings, dataset, score)
    notify(f"{rankings}: lists for {model.n_served} of {dataset.n_users} users; those without one count as misses")
    if dataset.split(split).nnz == 0:
        raise DmrecError(f"{dataset.folder} has no {split} interactions to measure with")
    users = TrainingData(dataset.split("train"))
    wanted = metrics or EvaluationConfig().metrics
    return Measured(
        rankings.name, str(rankings), dataset, users, evaluate_model(model, users, dataset.split(split), wanted)
    )


EQUAL = re.compile(r"equal:([1-9]\d*)")


def check_groups(groups: str | None) -> None:
    """Before anything is ranked."""
    _borders(groups, np.zeros(0, dtype=np.int64))


def _borders(groups: str | None, interactions: np.ndarray) -> list[int]:
    """Rising numbers of interactions."""
    if groups is None:
        return []
    if match := EQUAL.fullmatch(groups):
        group = equal_groups(interactions, int(match[1]))
        return [int(interactions[group == number].min()) for number in sorted(set(group.tolist()))[1:]]
    try:
        borders = [int(part) for part in groups.split(",")]
    except ValueError:
        borders = []
    if not borders or borders[0] < 1 or any(b <= a for a, b in pairwise(borders)):
        raise DmrecError(f"--groups takes rising whole numbers, like 5,10,20, or equal:4, got '{groups}'")
    return borders


def _ranges(borders: list[int]) -> list[tuple[str, int, float]]:
    """Label, first and one past the last number of interactions of each group."""
    edges = [0, *borders, math.inf] if borders else []
    last = f"{borders[-1]} or more" if borders else ""
    labels = [f"{low} to {int(high) - 1}" for low, high in pairwise(edges[:-1])] + [last]
    return [(label, int(low), high) for label, (low, high) in zip(labels, pairwise(edges), strict=False)]

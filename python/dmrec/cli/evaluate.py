"""``dmrec evaluate``: metrics of a finished run."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dmrec_ext import Csr

from ..errors import DmrecError
from ..eval.ranking import evaluate as evaluate_ranker
from ..train.build import load_run
from .console import print_table


class Split(StrEnum):
    """Held-out interactions to rank for."""

    valid = "valid"
    test = "test"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    split: Annotated[Split, typer.Option(help="Which held-out interactions.")] = Split.test,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Like recall@50; repeatable.")] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank all items for every user again and print the metrics.

    Examples:

    - `dmrec evaluate runs/dmrec-m`
    - `dmrec evaluate runs/dmrec-m --split valid --metric recall@50 --metric ndcg@50 --json`
    """
    opened, dataset, ranker = load_run(run, data)
    train, held_out = Csr.from_scipy(dataset.train), Csr.from_scipy(getattr(dataset, split))
    result = evaluate_ranker(ranker, train, held_out, metrics or opened.config.evaluation.metrics)
    if result.n_users == 0:
        raise DmrecError(f"{dataset.folder} has no {split} interactions to measure with")
    if as_json:
        typer.echo(json.dumps({"run": str(opened.folder), "split": split, "users": result.n_users, **result.means}))
    else:
        title = f"{opened.config.name} on {dataset.name}: {split}, {result.n_users} users"
        print_table(title, ["metric", "mean"], list(result.means.items()))

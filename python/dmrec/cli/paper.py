"""``dmrec paper``: the paper's tables and figures on any dataset."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..data.dataset import open_dataset
from ..experiment.paper_plans import paper_plan
from ..experiment.plan import read_plan
from ..files import write_atomically
from .console import DEVICE, Threads, Workers, notify
from .experiment import run_plan


class Analysis(StrEnum):
    """What of the paper is run."""

    table_2 = "table-2"
    table_3 = "table-3"
    ablations = "ablations"
    beta = "beta"


def paper(
    analysis: Annotated[Analysis, typer.Argument(help="Of the paper.")],
    data: Annotated[list[Path], typer.Option(help="Dataset folder; repeatable.", show_default=False)],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 10,
    tune: Annotated[
        int | None,
        typer.Option(min=1, help="Trials of each trained model's search. Default: published options, not tuned."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: experiments/ANALYSIS.", show_default=False)] = None,
    workers: Workers = 1,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Write the experiment file and run nothing.")] = False,
) -> None:
    """Run an analysis of the DMRec paper on your data, as an experiment that can be stopped and continued.

    table-2: autoencoders alone and with DMRec. table-3: language-enhanced models. ablations: DMRec-M without its parts
    (Fig. 5), and controls. beta: the weight of the matching term (Fig. 6). The experiment file is written beside the
    folder, as ANALYSIS.yaml, and can be changed; it stays as it is when the command is given again.

    Examples:

    - `dmrec paper table-3 --data data/shop --seeds 3 --tune 15`
    - `dmrec experiment report experiments/table-3`
    """
    out = out or Path("experiments") / analysis.value
    file = out.with_name(f"{out.name}.yaml")
    text = paper_plan(analysis.value, [open_dataset(folder.resolve()) for folder in data], seeds, tune)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode())
    elif file.read_text(encoding="utf-8") != text:
        notify(f"{file} is there already and says something else: it is run as it is")
    plan = read_plan(file, out, {"training": {"device": device}} if device else None)
    if plan_only:
        notify(f"{file}: run it with dmrec experiment {file}")
        return
    run_plan(plan, file, workers, threads, retry=False)

"""``dmrec runs``: the runs in a folder, with their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DmrecError
from ..runs.run import CONFIG, PREVIOUS, Run
from .console import notify, print_table


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs"),
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="A metric on the test interactions; repeatable.")
    ] = None,
) -> None:
    """List runs: finished ones with their figures, the others with their state.

    Examples:

    - `dmrec runs`
    - `dmrec runs results --metric recall@20`
    """
    found = sorted(path.parent for path in folder.glob(f"**/{CONFIG}") if path.parent.name != PREVIOUS)
    if not found:
        raise DmrecError(f"{folder} holds no runs (no {CONFIG} in it or below)")
    wanted = metrics or ["recall@20", "ndcg@20"]
    rows: list[list[Any]] = []
    for each in found:
        run = Run(each)
        state, remark = run.state()
        result = run.result if state == "finished" else {}
        figures = [result.get("test", {}).get(metric) for metric in wanted]
        rows.append([str(each.relative_to(folder)), state, *figures, result.get("best_epoch"), remark])
    names = ["run", "state", *wanted, "best epoch", "remark"]
    kept = [i for i in range(len(names)) if i < 2 or any(row[i] not in (None, "") for row in rows)]
    print_table(str(folder), [names[i] for i in kept], [[row[i] for i in kept] for row in rows], numbers_from=2)


def notify_of_seed(given: Path, folder: Path) -> None:
    """Says which run was opened where the folder of a model with several was named, or a run is trained again."""
    if folder.name == PREVIOUS:
        notify(f"{given} is being trained again: this is the finished run before it")
        folder = folder.parent
    if given.resolve() != folder.resolve() and (seeds := len(list(folder.parent.glob("seed-*")))) > 1:
        notify(f"{given} has runs of {seeds} seeds; this is {folder.name}: name another one's folder to use it")

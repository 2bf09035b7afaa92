"""``dmrec runs``: the runs in a folder, with their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DmrecError
from ..runs.run import CONFIG, PREVIOUS, Run
from .console import print_table


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
    print_table(str(folder), ["run", "state", *wanted, "best epoch", "remark"], rows, numbers_from=2)

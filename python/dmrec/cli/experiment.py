"""``dmrec experiment``: a grid of runs from a file; its report."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import DmrecError
from ..experiment.plan import read_plan
from ..experiment.report import tables
from ..experiment.runner import alone_in, check_folder, open_jobs, read_rows, run_jobs
from ..files import write_atomically
from .console import errors, output


class FileOrCommand(TyperGroup):
    """``dmrec experiment FILE.yaml`` is ``dmrec experiment run FILE.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in where a file stands."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=FileOrCommand,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Run a grid of datasets, models and seeds: `dmrec experiment FILE.yaml`; tables of what came of it.",
)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="YAML: datasets, models, seeds, sections for all.")],
    out: Annotated[Path | None, typer.Option(help="Default: experiments/NAME.", show_default=False)] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs side by side, each on its share of processors.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each run. Default: its share.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try runs again that failed.")] = False,
) -> None:
    """Run what is not finished of a grid; a row for each run as it ends, in `rows.jsonl`.

    Stop it at any time, start it again: finished runs stay, those under way go on from their checkpoints, to the bit.

    Examples:

    - `dmrec experiment scientific.yaml --workers 2`
    """
    out = out or Path("experiments") / file.stem
    jobs = read_plan(file, out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with alone_in(out):
            check_folder(out, jobs, "give the changed model another name")
            left = open_jobs(jobs, out, retry)
            errors.print(f"{len(jobs)} runs, {len(jobs) - len(left)} of them done: {out}", highlight=False)
            run_jobs(left, out, errors, workers=workers, threads=threads)
    except KeyboardInterrupt:
        errors.print("stopped; the same command goes on", highlight=False)
        raise typer.Exit(130) from None
    mine = {(job.dataset, job.model, job.seed) for job in jobs}
    failed = [
        row
        for row in read_rows(out)
        if row["state"] == "failed" and (row["dataset"], row["model"], row["seed"]) in mine
    ]
    if failed:
        raise DmrecError(f"{len(failed)} runs failed: see {out / 'rows.jsonl'}; again with --retry")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Of an experiment.")],
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Columns; repeatable.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File to write.", show_default=False)] = None,
    latex: Annotated[Path | None, typer.Option(help="File to write.", show_default=False)] = None,
) -> None:
    """Print or write tables in the layout of the paper's Table 2, with paired tests over seeds and over users.

    Examples:

    - `dmrec experiment report experiments/scientific`
    - `dmrec experiment report experiments/scientific --metric recall@20 --latex table.tex --markdown table.md`
    """
    as_markdown, as_latex = tables(folder, metrics)
    for path, text in ((markdown, as_markdown), (latex, as_latex)):
        if path is not None:
            write_atomically(path, text.encode())
    if markdown is None and latex is None:
        output.print(as_markdown, highlight=False, markup=False)

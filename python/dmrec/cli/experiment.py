"""``dmrec experiment``: runs a grid of datasets, models and seeds, and reports on it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import DmrecError
from ..experiment.ledger import ROWS, check_folder, experiment_lock, failed_rows, pending_jobs
from ..experiment.plan import PLAN, TUNING, Plan, read_plan
from ..experiment.report.contents import Contents, contents, in_words
from ..experiment.report.html import html as as_html
from ..experiment.report.html import renderer, write_figures
from ..experiment.report.sentences import sentences
from ..experiment.report.tables import interval, p_value, signed
from ..experiment.report.tables import latex as as_latex
from ..experiment.report.tables import markdown as as_markdown
from ..experiment.runner import run_jobs, run_searches
from ..experiment.searches import pending_searches
from ..files import write_atomically
from .console import DEVICE, Threads, Workers, notify, output, print_table


class FileOrCommand(TyperGroup):
    """Reads ``dmrec experiment FILE.yaml`` as ``dmrec experiment run FILE.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Inserts the command ``run`` before a file."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=FileOrCommand,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Run a grid of datasets, models and seeds (`dmrec experiment FILE.yaml`), and report its results in tables.",
)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="YAML: datasets, models, seeds, sections for all models.")],
    out: Annotated[Path | None, typer.Option(help="Default: experiments/NAME.", show_default=False)] = None,
    workers: Workers = 1,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed runs again.")] = False,
) -> None:
    """Run what has not finished yet of a grid. Each run adds a row to `rows.jsonl` as it ends.

    You can stop it at any time and start it again: finished runs are kept, and unfinished ones are resumed from their
    checkpoints, bit for bit.

    Examples:

    - `dmrec experiment scientific.yaml --workers 2`
    """
    out = out or Path("experiments") / file.stem
    run_plan(read_plan(file, out, {"training": {"device": device}} if device else None), file, workers, threads, retry)


def run_plan(plan: Plan, file: Path, workers: int, threads: int | None, retry: bool) -> None:
    """Runs what has not finished yet of the plan in ``file``: searches, then runs."""
    out = plan.out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with experiment_lock(out):
            if waiting := pending_searches(plan.searches()):
                notify(f"{len(waiting)} searches of {waiting[0].trials} trials each come first: {out / TUNING}")
                write_atomically(out / PLAN, file.read_bytes())
                run_searches(waiting, notify, workers=workers, threads=threads)
            jobs = plan.jobs()
            check_folder(out, jobs, "give the changed model another name")
            pending = pending_jobs(jobs, out, retry=retry)
            write_atomically(out / PLAN, file.read_bytes())
            notify(f"{len(jobs)} runs, {len(jobs) - len(pending)} of them done: {out}")
            run_jobs(pending, out, notify, workers=workers, threads=threads)
    except KeyboardInterrupt:
        notify("stopped; run the same command again to continue")
        raise typer.Exit(130) from None
    if failed := failed_rows(jobs, out):
        raise DmrecError(f"{len(failed)} runs failed: see {out / ROWS}; run them again with --retry")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of an experiment.")],
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Columns; repeatable.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare every model with this one, too; repeatable. Default: as the experiment's file says.",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="File to write.", show_default=False)] = None,
    latex: Annotated[Path | None, typer.Option(help="File to write.", show_default=False)] = None,
    html: Annotated[
        Path | None, typer.Option(help="Page to write, with figures: pip install 'dmrec[report]'.", show_default=False)
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures, as PDF and Vega-Lite JSON.", show_default=False)
    ] = None,
) -> None:
    """Print or write what the runs of an experiment show: tables, tests over seeds and users, figures.

    Metrics that were not asked for when the runs were made are computed from the ranks that these have kept, up to 100.

    Examples:

    - `dmrec experiment report experiments/scientific --against ease`
    - `dmrec experiment report experiments/scientific --html report.html`
    - `dmrec experiment report experiments/scientific --metric recall@20 --latex table.tex --markdown table.md`
    """
    found = contents(folder, metrics, against)
    for path, write in ((markdown, as_markdown), (latex, as_latex)):
        if path is not None:
            write_atomically(path, write(found).encode())
    if html is not None:
        draw = renderer()
        if draw is None:
            notify("the page has no figures: pip install 'dmrec[report]'")
        write_atomically(html, as_html(found, draw).encode())
    if figures is not None:
        notify(f"{len(write_figures(found, figures))} files: {figures}")
    if not any((markdown, latex, html, figures)):
        _print(found)


def _print(found: Contents) -> None:
    """The report for a terminal: for each dataset a table of figures, sentences, and a table of differences."""
    for section in found.sections:
        rows = []
        for line in section.lines:
            values = [
                f"{line.means[metric]:.4f}" + (f" ±{line.deviations[metric]:.4f}" if line.deviations else "")
                for metric in found.metrics
            ]
            rows.append([line.model, line.seeds, *values])
        title = f"{section.dataset}: test, {section.users} users"
        print_table(title, ["model", "seeds", *found.metrics], rows)
        for sentence in sentences(found, section):
            output.print(sentence, soft_wrap=False)
        compared = [each for each in section.tested if each.comparison.metric == found.primary]
        if compared:
            rows = []
            for each in compared:
                c = each.comparison
                bounds = interval(c.both.low, c.both.high)
                rows.append([f"{c.variant} - {c.base}", signed(c.users.difference), bounds, p_value(each.over_both)])
            title = f"{found.primary}, over seeds and users, p by Holm (all tests: --markdown, --html)"
            print_table(title, ["", "difference", "95 %", "p"], rows)
    for row in found.failed:
        output.print(in_words(row))

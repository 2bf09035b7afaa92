"""Terminal output shared by the commands: results to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_OF_FILES = 120  # where output goes to a file or a pipe and no terminal says how wide it is

Workers = Annotated[int, typer.Option(min=1, help="Number of runs at a time, which share the processors.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads per run. Default: OMP_NUM_THREADS, or an equal share of the processors."),
]
DEVICE = "cpu, cuda or auto (the GPU where there is one). Default: training.device."

PLAIN: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False, "emoji": False}
"""What is printed is data: brackets, colons and links in it are characters like others."""
output = Console(**PLAIN, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
errors = Console(**PLAIN, stderr=True)


def notify(message: str) -> None:
    """Prints a line about progress to stderr."""
    errors.print(message)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers_from: int = 1) -> None:
    """A table; columns from ``numbers_from`` on are set right."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        is_number = i >= numbers_from and all(isinstance(row[i], int | float | None) for row in rows)
        table.add_column(
            Text(column), justify="right" if i >= numbers_from else "left", overflow="fold", no_wrap=is_number
        )
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    output.print(table)


def _cell(value: Any) -> Text:
    if value is None or value != value:
        return Text("-")
    return Text(f"{value:.4f}" if isinstance(value, float) else str(value))

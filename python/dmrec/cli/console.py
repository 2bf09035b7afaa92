"""Terminal output shared by the commands: results to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH_OF_FILES = 120  # where output goes to a file or a pipe and no terminal says how wide it is

DEVICE = "cpu, cuda or auto (the GPU where there is one). Default: training.device."

output = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
errors = Console(stderr=True, soft_wrap=True)


def notify(message: str) -> None:
    """Prints a line about progress to stderr, without markup or highlighting."""
    errors.print(message, highlight=False, markup=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers_from: int = 1) -> None:
    """A table; columns from ``numbers_from`` on are set right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i >= numbers_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    output.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("[", r"\[")

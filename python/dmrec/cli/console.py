"""Terminal output shared by the commands: results to stdout, progress and errors to stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

output = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


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

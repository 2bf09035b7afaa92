"""``dmrec``: the commands and how their errors are shown."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from ..errors import DmrecError
from .console import errors, output


class Entry(NamedTuple):
    """A command: where it is, and the first sentence of its help."""

    module: str
    attribute: str  # a function, or an app with commands of its own
    summary: str


COMMANDS = {
    "data": Entry("data", "app", "Make datasets and inspect them."),
    "profile": Entry("profile", "profile", "Write a short text about every item and user, to be turned into vectors."),
    "embed": Entry("embed", "embed", "Turn the texts of items and users, or their profiles, into vectors."),
    "tokenize": Entry("tokenize", "tokenize", "Give each item a tuple of codes (a semantic ID)."),
    "train": Entry("train", "train", "Train and test models, together with the baselines popularity and EASE."),
    "plan": Entry("plan", "plan", "Show memory, traffic and time of a training over several processes."),
    "resume": Entry("train", "resume", "Continue a run that was stopped or killed, bit for bit."),
    "runs": Entry("runs", "runs", "List runs: finished ones with their figures, the others with their state."),
    "evaluate": Entry("evaluate", "evaluate", "Rank all items for every user again and print the metrics."),
    "export": Entry("export", "export", "Write the vectors of the items, for an index of nearest neighbours."),
    "recommend": Entry("recommend", "recommend", "Write or print the best items of each user, known or new."),
    "tune": Entry("tune", "tune", "Search the options with the best score on validation."),
    "paper": Entry("paper", "paper", "Run an analysis of the DMRec paper on your data."),
    "experiment": Entry("experiment", "app", "Run a grid of datasets, models and seeds, and report its results."),
    "plot": Entry("plot", "plot", "Draw validation over the seconds of training, of runs that are there."),
    "doctor": Entry("doctor", "doctor", "Show what is installed, and whether each operator runs natively."),
}
"""In the order in which they are used."""
MARKUP: Any = "markdown"


class OnDemand(TyperGroup):
    """Imports a command when it is called: to list them, or to print the help, torch is not needed."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; while commands are listed, its name and summary alone."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        if self._listing:
            return TyperCommand(cmd_name, help=entry.summary)
        return load_command(cmd_name)

    @contextmanager
    def _lists(self) -> Iterator[None]:
        self._listing = True
        try:
            yield
        finally:
            self._listing = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of all commands."""
        with self._lists():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The names of commands that begin so."""
        with self._lists():
            return super().shell_complete(ctx, incomplete)


def load_command(name: str) -> Any:
    """A command, imported."""
    from ..plugins import load_plugins
    from ..runtime import limit_threads

    limit_threads()
    load_plugins()
    entry = COMMANDS[name]
    made = getattr(importlib.import_module(f".{entry.module}", __package__), entry.attribute)
    if not isinstance(made, typer.Typer):
        function, made = made, typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
        made.command(name)(function)
    command = typer.main.get_command(made)
    command.name = name
    return command


app = typer.Typer(
    cls=OnDemand,
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train and use recommenders that know what things are: DMRec and its baselines.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print(importlib.metadata.version("dmrec"))
        raise typer.Exit


def _name_plugins(sources: list[str] | None) -> list[str] | None:
    if sources:
        from ..plugins import name_plugins

        name_plugins(sources)
    return sources


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            callback=_name_plugins,  # before the command is imported
            help="Module or .py file with models or metrics of your own; repeatable. Also: DMREC_PLUGINS.",
            show_default=False,
        ),
    ] = None,
) -> None:
    del version, plugins
    del debug  # read in main(), where it may be anywhere


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _run([argument for argument in arguments if argument != "--debug"])
    except (DmrecError, OSError, ArithmeticError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        _print_error("error", _one_line(error), error)
        _leave(1)
        sys.exit(1)
    except Exception as error:
        if "--debug" in arguments:
            raise
        kind = type(error).__name__
        _print_error(f"unexpected {kind}", f"{_one_line(error)} (--debug shows where)", error)
        _leave(1)
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    """Runs a command."""
    try:
        app(arguments)
    except SystemExit as end:  # also of a command that is done
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _leave(code: int) -> None:
    """Ends a process that torchrun has started with this status, whatever still runs in it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from ..sharding.launch import leave

        leave(code)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _print_error(kind: str, message: str, error: BaseException) -> None:
    """Of processes that torchrun has started, rank 0 alone says what all of them have met; else it is named who has."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from ..sharding.ranks import is_agreed

        rank = os.environ.get("RANK", "0")
        if not is_agreed(error):
            message = f"rank {rank} on {socket.gethostname()}: {message}"
        elif rank != "0":
            return
    errors.print(Text.assemble((f"{kind}:", "bold red"), f" {message}"))

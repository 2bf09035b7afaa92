"""``dmrec``: the commands and how their errors are shown."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from ..errors import DmrecError
from ..runtime import limit_threads
from . import data, doctor, embed, evaluate, experiment, profile, recommend, runs, train, tune
from .console import errors, output

ORDER = ("data", "profile", "embed", "train", "resume", "runs", "evaluate", "recommend", "tune", "experiment", "doctor")


class InOrder(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train and use recommenders that know what things are: DMRec and its baselines.",
)
app.add_typer(data.app, name="data")
app.command()(profile.profile)
app.command()(embed.embed)
app.command()(train.train)
app.command()(train.resume)
app.command()(runs.runs)
app.command()(evaluate.evaluate)
app.command()(recommend.recommend)
app.command()(tune.tune)
app.add_typer(experiment.app, name="experiment")
app.command()(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print(importlib.metadata.version("dmrec"))
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    del debug  # read in main(), where it may be anywhere


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    limit_threads()
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except (DmrecError, OSError, ArithmeticError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        _print_error("error", _one_line(error))
        sys.exit(1)
    except Exception as error:
        if "--debug" in arguments:
            raise
        kind = type(error).__name__
        _print_error(f"unexpected {kind}", f"{_one_line(error)} (--debug shows where)")
        sys.exit(1)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _print_error(kind: str, message: str) -> None:
    errors.print(Text.assemble((f"{kind}:", "bold red"), f" {message}"))

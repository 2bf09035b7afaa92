"""Commands that run in several processes: ``--ranks``, and what torchrun has started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ..config import ShardingConfig
from ..errors import DmrecError
from ..runs.run import Run
from ..runtime import usable_processors
from ..sharding.launch import joined, torchrun, under_torchrun
from ..sharding.ranks import Ranks
from .console import notify, output

RanksOption = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        help="Processes that share the items of a large catalogue, a power of two; started by torchrun.",
        show_default=False,
    ),
]
SHARDS = 64
"""Shards where several processes train, unless the configuration says otherwise."""


def are_together(ranks: int | None) -> bool:
    """Whether the command runs, or is to run, in processes that share the items.

    Raises:
        DmrecError: torchrun has started this process, and is to be started again.
    """
    if ranks is not None and under_torchrun():
        raise DmrecError("--ranks starts torchrun, which has started this process already: leave it out")
    return ranks is not None or under_torchrun()


def notify_once(message: str, ranks: int | None) -> None:
    """`notify` for what every process finds before it knows the others: of those that torchrun has started rank 0 says
    it, and the process that is to be replaced by torchrun (``ranks``) does not.
    """
    if ranks is None and not (under_torchrun() and os.environ["RANK"] != "0"):
        notify(message)


def start(ranks: int) -> NoReturn:
    """Replaces this process by torchrun, which runs the same command in so many processes."""
    arguments, skip = [], False
    for argument in sys.argv[1:]:
        if skip or argument == "--ranks" or argument.startswith("--ranks="):
            skip = argument == "--ranks"
            continue
        arguments.append(argument)
    command, environment = torchrun(ranks, arguments, usable_processors())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)


def sharding_of(run: Path) -> ShardingConfig:
    """How the items of a run are cut, for several processes.

    Raises:
        DmrecError: they are not.
    """
    opened = Run.open(run)
    sharding = opened.config.sharding
    if sharding.shards == 1:
        raise DmrecError(f"{opened.folder} is of one process (sharding.shards is 1): leave out --ranks")
    return sharding


@contextmanager
def together(sharding: ShardingConfig) -> Iterator[Ranks]:
    """The processes that share the items, of which rank 0 alone prints what is not an error.

    Raises:
        typer.Exit: there are more processes than can share them, and this one has stood by until the others were done.
    """
    with joined(sharding.sums, sharding.timeout_minutes, notify) as ranks:
        output.quiet = ranks is None or not ranks.is_first
        if ranks is None:
            raise typer.Exit
        yield ranks

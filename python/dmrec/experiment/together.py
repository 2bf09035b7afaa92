"""Runs jobs in several processes that train each of them together: rank 0 decides, the others follow."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from ..sharding.ranks import Ranks, is_agreed
from ..training.observer import Observer
from .plan import Job
from .runner import run_jobs_here
from .worker import train_or_resume

Report = Callable[[str], None]


def lead(jobs: Sequence[Job], folder: Path, report: Report, observers: Sequence[Observer], ranks: Ranks) -> None:
    """Rank 0: runs all jobs as `run_jobs_here` does, each with the other ranks, which call `follow`.

    Raises:
        SystemExit: something failed here alone: the others wait for this rank, and all processes must begin anew.
    """

    def train(job: Job) -> None:
        ranks.tell(job.folder)
        _together(job.folder, report, observers, ranks)

    try:
        run_jobs_here(jobs, folder, train, report)
    except (SystemExit, KeyboardInterrupt) as error:
        if is_agreed(error):  # else the others are not where they would hear it
            ranks.tell(None)
        raise
    except Exception:  # between two jobs
        ranks.tell(None)
        raise
    ranks.tell(None)


def follow(ranks: Ranks, report: Report) -> None:
    """The other ranks: train what rank 0 says, until it has no more.

    Raises:
        KeyboardInterrupt: the training was stopped, on all of them.
        SystemExit: see `lead`.
    """
    while (folder := ranks.tell(None)) is not None:
        try:
            _together(folder, report, (), ranks)
        except KeyboardInterrupt as error:
            if is_agreed(error):
                ranks.tell(None)  # rank 0 says that there is no more
            raise
        except Exception as error:
            if not is_agreed(error):
                raise


def _together(folder: Path, report: Report, observers: Sequence[Observer], ranks: Ranks) -> None:
    try:
        train_or_resume(folder, report if ranks.is_first else _ignore, observers, ranks)
    except Exception as error:
        if is_agreed(error):
            raise
        where = "".join(traceback.format_exception(error)[-2:])
        report(f"rank {ranks.rank} on {socket.gethostname()} failed: {type(error).__name__}: {error}\n{where}")
        raise SystemExit(1) from error


def _ignore(line: str) -> None:
    del line  # rank 0 says it

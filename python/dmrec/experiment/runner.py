"""Runs jobs: several at a time, each in a process of its own, or one after the other in this process.

Either way each run leaves a row as it ends (see `ledger`). An interrupted experiment can be continued: finished runs
are kept, and runs that left a checkpoint are resumed from it. A failed run leaves a row with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

from ..config import Config, build_config, dump_config
from ..errors import DmrecError
from ..files import locked, write_atomically
from ..models.base import MODELS
from ..runs.run import LOCK, RESULT, clear, is_finished, run_lock
from ..runtime import usable_processors
from .ledger import Row, append_row, failed_row, finished_row
from .plan import DIGEST, Job, Search
from .searches import write_search
from .worker import INTERRUPTED, JOB, RUN_ERRORS, error_line

OUTPUT = "worker.log"
Report = Callable[[str], None]  # takes one line of progress
Task = TypeVar("Task")


def run_jobs(
    jobs: Sequence[Job], folder: Path, report: Report, *, workers: int = 1, threads: int | None = None
) -> None:
    """Runs all jobs, each in a process of its own, while the caller holds `experiment_lock`.

    Args:
        jobs: what to run, in this order.
        folder: the experiment folder, where the rows go.
        report: is called with a line for each run that ends.
        workers: the number of processes that run at a time.
        threads: the number of threads of each; by default ``OMP_NUM_THREADS``, else its share of the processors.

    Raises:
        KeyboardInterrupt: the workers were interrupted too, and have written checkpoints.
    """
    threads = threads or threads_of_worker(workers)
    with closing(in_processes(jobs, lambda job: _start_job(job, threads, report), workers)) as ended:
        for number, (job, status, started) in enumerate(ended, start=1):
            row = row_of_worker(job, status, started) | {"workers": workers}
            _record(row, folder, f"{number} of {len(jobs)}", report)


def threads_of_worker(workers: int) -> int:
    """Threads for each of several processes: ``OMP_NUM_THREADS``, else its share of the processors."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else max(1, usable_processors() // workers)


def in_processes(
    tasks: Sequence[Task], start: Callable[[Task], subprocess.Popen[bytes]], workers: int
) -> Generator[tuple[Task, int, float], None, None]:
    """Starts a process for each task, ``workers`` at a time; yields each task as its process ends, with the exit status
    and the time at which it was started, in seconds since 1970. Those still running are terminated when it is closed.
    """
    waiting, running = list(tasks), dict[subprocess.Popen[bytes], tuple[Task, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop(0)
                running[start(task)] = task, time.time()
            time.sleep(0.05)
            for process in [process for process in running if process.poll() is not None]:
                task, started = running.pop(process)
                yield task, process.returncode, started
    finally:
        for process in running:
            process.terminate()  # a worker then writes a checkpoint
        for process in running:
            process.wait()


def run_searches(searches: Sequence[Search], report: Report, *, workers: int = 1, threads: int | None = None) -> None:
    """Runs all searches, each in a process of its own, while the caller holds `experiment_lock`. Arguments as above.

    Raises:
        DmrecError: some have failed; the others have ended.
        KeyboardInterrupt: the workers were interrupted too; they continue with the trial that was running.
    """
    threads, failed = threads or threads_of_worker(workers), []

    def start(search: Search) -> subprocess.Popen[bytes]:
        write_search(search)
        return start_worker(search.folder, threads, build_config(search.values))

    with closing(in_processes(searches, start, workers)) as ended:
        for number, (search, status, _) in enumerate(ended, start=1):
            outcome = "tuned" if status == 0 else error_of_worker(search.folder, status)
            report(f"{search.dataset.name} {search.model}: {outcome} ({number} of {len(searches)} searches)")
            failed += [] if status == 0 else [f"{search.model} on {search.dataset.name}: {outcome}"]
    if failed:
        raise DmrecError("\n".join([f"{len(failed)} searches failed; nothing was run", *failed]))


def run_jobs_here(jobs: Sequence[Job], folder: Path, train: Callable[[Job], object], report: Report) -> None:
    """Runs all jobs in this process, one after the other, while the caller holds `experiment_lock`.

    Args:
        jobs: what to run, in this order.
        folder: the experiment folder, where the rows go.
        train: trains a job, from its checkpoint where ``job.folder`` has one, and leaves a result in ``job.folder``.
        report: is called with a line for each run that ends.

    Raises:
        KeyboardInterrupt: from ``train``; the run has no row then.
        Exception: from ``train``, other than those that end one run alone (`RUN_ERRORS`); the run has a row as failed.
    """
    for number, job in enumerate(jobs, start=1):
        _prepare_folder(job, report)
        started = time.time()
        try:
            if not is_finished(job.folder):
                train(job)
            row = finished_row(job, started) | {"workers": 1}
        except Exception as error:
            row = failed_row(job, started, error_line(error)) | {"workers": 1}
            if not isinstance(error, RUN_ERRORS):
                append_row(folder, row)
                raise
        _record(row, folder, f"{number} of {len(jobs)}", report)


def _record(row: Row, folder: Path, progress: str, report: Report) -> None:
    """Writes the row of a run that has ended, unless it was interrupted, and reports it."""
    if row["state"] != "stopped":
        append_row(folder, row)
    measured = list((row.get("test") or row.get("valid") or {}).items())[:6]
    figures = row.get("error") or ", ".join(f"{name} {value:.4f}" for name, value in measured)
    outcome = ", ".join(filter(None, (row["state"], figures)))
    report(f"{row['dataset']} {row['model']} seed {row['seed']}: {outcome} ({progress})")


def _prepare_folder(job: Job, report: Report) -> None:
    """Writes the job to its folder. What a run of other options or other data left there is removed: `check_folder` has
    refused the job where that were worth anything.
    """
    with _wait_for_run_lock(job.folder, report):
        if not job.is_begun:
            clear(job.folder)
        write_atomically(job.folder / JOB, dump_config(job.config).encode())
        write_atomically(job.folder / DIGEST, job.digest.encode())


@contextmanager
def _wait_for_run_lock(folder: Path, report: Report) -> Iterator[None]:
    """Holds the lock of a run, after another process has released it: a worker whose runner was killed, for example."""
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(folder))
        except DmrecError:
            report(f"waiting for the process that trains in {folder}")
            stack.enter_context(locked(folder / LOCK))
        yield


def _start_job(job: Job, threads: int, report: Report) -> subprocess.Popen[bytes]:
    _prepare_folder(job, report)
    return start_worker(job.folder, threads, job.config)


def start_worker(folder: Path, threads: int, config: Config) -> subprocess.Popen[bytes]:
    """A process that does what ``folder`` asks for (see `worker`), for a model of this configuration."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with (folder / OUTPUT).open("wb") as output:
        # a session of its own: Ctrl-C reaches the runner alone, which then terminates its workers
        return subprocess.Popen(
            [sys.executable, "-m", "dmrec.experiment.worker", str(folder), str(os.getpid()), *model_source(config)],
            stdout=subprocess.DEVNULL,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def model_source(config: Config) -> list[str]:
    """The module or file that a worker has to import for the model to be registered; none for built-in models.

    Raises:
        DmrecError: the model was defined in an interactive session.
    """
    module = MODELS[config.model.kind].__module__
    if module == "__main__":
        program = getattr(sys.modules["__main__"], "__file__", None)
        if program is None:
            raise DmrecError(
                f"model '{config.model.kind}' is not defined in a file, from which other processes could import it"
            )
        return [str(Path(program).resolve())]
    return [] if module.startswith("dmrec.") else [module]


def row_of_worker(job: Job, status: int, started: float) -> Row:
    """The row of a job whose worker has ended with an exit status; negative: by a signal."""
    if status == 0 and (job.folder / RESULT).exists():
        return finished_row(job, started)
    error = error_of_worker(job.folder, status)
    return failed_row(job, started, error, state="stopped" if status == INTERRUPTED else "failed")


def error_of_worker(folder: Path, status: int) -> str:
    """Why a worker ended with this exit status, on one line."""
    lines = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"killed by signal {-status}" if status < 0 else (lines[-1] if lines else f"exit code {status}")

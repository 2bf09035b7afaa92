"""Runs a grid: several runs side by side, each in a process of its own, a row for each as it ends.

Rows are JSON lines in ``rows.jsonl``, written in one piece and forced to disk. A grid that was interrupted goes on:
rows of finished runs stay, runs with a checkpoint are resumed. A run that failed is a row that says why; it is tried
again only when asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import dump_config
from ..errors import DmrecError
from ..files import locked, write_atomically
from ..models.base import MODELS
from ..runs.run import LOCK, RESULT, Run, clear, run_lock
from ..runs.run import run_folder as folder_of
from .plan import Job

ROWS, JOB, DIGEST, OUTPUT = "rows.jsonl", "job.yaml", "job.sha256", "worker.log"
INTERRUPTED = 130  # exit status of a worker that was asked to stop and left a checkpoint
KEPT = (
    *("valid", "test", "test_users", "best_epoch", "epochs", "seconds", "seconds_per_epoch", "phases"),
    *("vectors", "precision", "regularisation"),
)
Row = dict[str, Any]


def read_rows(folder: Path) -> list[Row]:
    """All rows, the last one of each run, as they were started; a line that a crash cut short is passed over."""
    path = folder / ROWS
    if not path.exists():
        return []
    rows: dict[tuple[str, str, int], Row] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        key = row["dataset"], row["model"], row["seed"]
        rows[key] = {**row, "started": rows.get(key, row).get("started", 0)}  # tried again, it keeps its place
    return sorted(rows.values(), key=lambda row: row["started"])


def append_row(folder: Path, row: Row) -> None:
    """One line, on disk before this returns."""
    line = json.dumps(row) + "\n"
    path = folder / ROWS
    with path.open("ab+") as file:
        if file.tell() and not _ends_with_newline(path):
            line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def open_jobs(jobs: Sequence[Job], folder: Path, retry: bool) -> list[Job]:
    """Those that have not left a row and a result; with ``retry`` those that failed as well."""
    done = set()
    for row in read_rows(folder):
        here = run_folder(folder, row)
        if (row["state"] == "finished" and (here / RESULT).exists()) or (row["state"] == "failed" and not retry):
            done.add((here, row["digest"]))
    return [job for job in jobs if (job.folder, job.digest) not in done]


def run_folder(folder: Path, row: Row) -> Path:
    """Where the run of a row lies."""
    return folder_of(folder, str(row["dataset"]), str(row["model"]), row["seed"])


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Held while an experiment is run or what it left is removed: two at a time would run everything twice."""
    return locked(folder / ".lock", f"{folder}: another process runs this experiment")


def run_jobs(jobs: Sequence[Job], folder: Path, console: Console, *, workers: int, threads: int | None = None) -> None:
    """Runs all of them, ``workers`` at a time, each on its share of the processors; `alone_in` the folder."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = threads or max(1, processors // workers)
    waiting, running = list(jobs), dict[subprocess.Popen[bytes], tuple[Job, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[_start(job, each, console)] = job, time.time()
            time.sleep(0.05)
            for process in [process for process in running if process.poll() is not None]:
                job, started = running.pop(process)
                row = row_of(job, process.returncode, started, time.time() - started)
                if row["state"] != "stopped":
                    append_row(folder, row)
                figures = row.get("error") or ", ".join(f"{k} {v:.4f}" for k, v in list(row["test"].items())[:6])
                progress = f"{len(jobs) - len(waiting) - len(running)} of {len(jobs)}"
                told = f"{job.dataset} {job.model} seed {job.seed}: {row['state']}, {figures} ({progress})"
                console.print(told, highlight=False)
    finally:
        for process in running:  # they leave checkpoints
            process.terminate()
        for process in running:
            process.wait()


def prepare(job: Job, console: Console) -> None:
    """Writes the job into its folder, which is cleared if it holds another model or other data, never finished."""
    digest = job.folder / DIGEST
    with _when_free(job.folder, console):
        if not digest.exists() or digest.read_text() != job.digest:
            clear(job.folder)
        write_atomically(job.folder / JOB, dump_config(job.config).encode())
        write_atomically(digest, job.digest.encode())


def _start(job: Job, threads: int, console: Console) -> subprocess.Popen[bytes]:
    prepare(job, console)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with (job.folder / OUTPUT).open("wb") as said:
        # a session of its own: Ctrl-C comes to the runner alone, which asks the workers to stop
        return subprocess.Popen(
            [sys.executable, "-m", "dmrec.experiment.worker", str(job.folder), str(os.getpid()), *source_of(job)],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
            start_new_session=True,
        )


def source_of(job: Job) -> list[str]:
    """The module or the program in which a model of somebody's own stands, which a worker has to import."""
    module = MODELS[job.config.model.kind].__module__
    if module == "__main__":
        program = getattr(sys.modules["__main__"], "__file__", None)
        if program is None:
            raise DmrecError(
                f"model '{job.config.model.kind}' stands in no file, from which other processes could take it"
            )
        return [str(Path(program).resolve())]
    return [] if module.startswith("dmrec.") else [module]


@contextmanager
def _when_free(folder: Path, console: Console) -> Iterator[None]:
    """Until a worker whose runner was killed has left its checkpoint, or somebody else is done."""
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(folder))
        except DmrecError:
            console.print(f"waiting for the process that trains in {folder}", highlight=False)
            stack.enter_context(locked(folder / LOCK))
        yield


def row_of(job: Job, status: int, started: float, seconds: float) -> Row:
    """What is kept of a run that has ended; ``started`` in seconds since 1970."""
    row: Row = {"dataset": job.dataset, "model": job.model, "seed": job.seed, "digest": job.digest, "data": job.data}
    row["started"] = round(started, 3)
    if status != 0 or not (job.folder / RESULT).exists():
        said = (job.folder / OUTPUT).read_text(errors="replace").strip().splitlines()
        reason = f"killed by signal {-status}" if status < 0 else (said[-1] if said else f"exit code {status}")
        state = "stopped" if status == INTERRUPTED else "failed"
        return {**row, "state": state, "error": reason, "seconds": round(seconds, 1)}
    result = Run(job.folder).result
    row |= {name: result[name] for name in KEPT if name in result}
    settings = result["environment"]
    return {**row, "state": "finished", "threads": settings["threads"], "torch": settings["torch"]}


def _check_data(folder: Path, rows: Sequence[Row], jobs: Sequence[Job]) -> None:
    planned = [{"dataset": job.dataset, "data": job.data} for job in jobs]
    finished = [row for row in rows if row["state"] == "finished"]
    if name := differing_data([*finished, *planned]):
        raise DmrecError(f"{folder} holds runs on another version of {name}: name another folder (--out)")


def forget(jobs: Sequence[Job], folder: Path) -> None:
    """Removes what these models left, and their rows: of all seeds, which belong together."""
    models = {(job.dataset, job.model) for job in jobs}
    rows = read_rows(folder)
    _check_data(folder, [row for row in rows if (row["dataset"], row["model"]) not in models], jobs)
    gone = {run_folder(folder, row) for row in rows if (row["dataset"], row["model"]) in models}
    for here in gone | {job.folder for job in jobs}:
        if here.exists():
            with run_lock(here):
                clear(here)
    kept = [row for row in rows if (row["dataset"], row["model"]) not in models]
    if (folder / ROWS).exists():
        write_atomically(folder / ROWS, "".join(json.dumps(row) + "\n" for row in kept).encode())


def differing_data(rows: Sequence[Row]) -> str | None:
    """The first dataset of which these rows saw two versions, files by checksum; rows of old do not say."""
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        for file, checksum in row.get("data", {}).items():
            if seen.setdefault((row["dataset"], file), checksum) != checksum:
                return str(row["dataset"])
    return None


def check_folder(folder: Path, jobs: Sequence[Job], advice: str) -> None:
    """Finished runs of other options under the same name would be averaged with these, of other data compared."""
    _check_data(folder, read_rows(folder), jobs)
    wanted = {(job.dataset, job.model): job.digest for job in jobs}
    for row in read_rows(folder):
        digest = wanted.get((row["dataset"], row["model"]), row["digest"])
        if row["state"] == "finished" and digest != row["digest"]:
            raise DmrecError(
                f"{folder} holds runs of {row['model']} on {row['dataset']} with other options or other data: "
                f"name another folder (--out), or {advice}"
            )

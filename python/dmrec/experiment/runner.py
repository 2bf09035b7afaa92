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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import dump_config
from ..errors import DmrecError
from ..files import write_atomically
from ..train.run import RESULT, Run, clear
from .plan import Job

ROWS = "rows.jsonl"
KEPT = (
    *("valid", "test", "test_users", "best_epoch", "epochs", "seconds", "seconds_per_epoch", "phases"),
    *("vectors", "precision", "regularisation"),
)
Row = dict[str, Any]


def read_rows(folder: Path) -> list[Row]:
    """All rows, the last one of each run; a line that a crash cut short is passed over."""
    path = folder / ROWS
    if not path.exists():
        return []
    rows: dict[tuple[str, str, int], Row] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["dataset"], row["model"], row["seed"]] = row
    return list(rows.values())


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
    """Those without a row of the same configuration; with ``retry`` those that failed as well."""
    done = {
        (row["dataset"], row["model"], row["seed"], row["digest"])
        for row in read_rows(folder)
        if row["state"] == "finished" or not retry
    }
    return [job for job in jobs if (job.dataset, job.model, job.seed, job.digest) not in done]


def run_jobs(jobs: Sequence[Job], folder: Path, console: Console, *, workers: int, threads: int | None = None) -> None:
    """Runs all of them, ``workers`` at a time, each on its share of the processors."""
    folder.mkdir(parents=True, exist_ok=True)
    each = threads or max(1, (os.cpu_count() or 1) // workers)
    waiting, running = list(jobs), dict[subprocess.Popen[str], tuple[Job, float]]()
    total = len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[_start(job, each)] = job, time.time()
            time.sleep(0.05)
            for process in [process for process in running if process.poll() is not None]:
                job, started = running.pop(process)
                row = row_of(job, process, time.time() - started)
                append_row(folder, row)
                left = len(waiting) + len(running)
                figures = row.get("error") or ", ".join(f"{k} {v:.4f}" for k, v in list(row["test"].items())[:6])
                console.print(
                    f"{job.dataset} {job.model} seed {job.seed}: {row['state']}, {figures} ({total - left} of {total})",
                    highlight=False,
                )
    finally:
        for process in running:  # they leave checkpoints
            process.terminate()
        for process in running:
            process.communicate()


def _start(job: Job, threads: int) -> subprocess.Popen[str]:
    write_atomically(job.folder / "job.yaml", dump_config(job.config).encode())
    command = [sys.executable, "-m", "dmrec.experiment.worker", str(job.folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    # a session of its own: Ctrl-C comes to the runner alone, which asks the workers to stop
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def row_of(job: Job, process: subprocess.Popen[str], seconds: float) -> Row:
    """What is kept of a run that has ended."""
    row: Row = {"dataset": job.dataset, "model": job.model, "seed": job.seed, "digest": job.digest}
    assert process.stderr is not None, "it is a pipe"
    with process.stderr as told:
        said = told.read().strip().splitlines()
    if process.returncode != 0 or not (job.folder / RESULT).exists():
        reason = said[-1] if said else f"exit code {process.returncode}"
        return {**row, "state": "failed", "error": reason, "seconds": round(seconds, 1)}
    result = Run(job.folder).result
    row |= {name: result[name] for name in KEPT if name in result}
    settings = result["environment"]
    return {**row, "state": "finished", "threads": settings["threads"], "torch": settings["torch"]}


def forget(jobs: Sequence[Job], folder: Path) -> None:
    """Removes what these runs left, and their rows."""
    names = {(job.dataset, job.model, job.seed) for job in jobs}
    kept = [row for row in read_rows(folder) if (row["dataset"], row["model"], row["seed"]) not in names]
    if (folder / ROWS).exists():
        write_atomically(folder / ROWS, "".join(json.dumps(row) + "\n" for row in kept).encode())
    for job in jobs:
        clear(job.folder)


def check_folder(folder: Path, jobs: Sequence[Job]) -> None:
    """Rows of other configurations under the same names would be mixed up."""
    wanted = {(job.dataset, job.model, job.seed): job.digest for job in jobs}
    for row in read_rows(folder):
        digest = wanted.get((row["dataset"], row["model"], row["seed"]))
        if digest is not None and digest != row["digest"]:
            raise DmrecError(
                f"{folder} holds a run of {row['model']} on {row['dataset']}, seed {row['seed']}, with other options or "
                "other data; give the changed model another name, name another folder (--out), or replace it (--force)"
            )

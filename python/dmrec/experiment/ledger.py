"""What an experiment folder records: a row in ``rows.jsonl`` for each run that has ended.

A row is one line of JSON, written at once and forced to disk. Runs are in ``DATASET/MODEL/seed-S``. A run that was
tried again has several rows, of which the last one counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..errors import DmrecError
from ..files import locked, write_atomically
from ..runs.checkpoint import check_cut
from ..runs.run import RESULT, Run, is_finished, make_room, run_lock
from ..runs.run import run_folder as folder_of_run
from .plan import DIGEST, Job

ROWS = "rows.jsonl"
RESULT_KEYS = (
    *("valid", "test", "test_users", "best_epoch", "epochs", "seconds", "seconds_per_epoch", "phases"),
    *("vectors", "precision", "regularisation"),
)
ENVIRONMENT_KEYS = ("device", "threads", "torch")
Row = dict[str, Any]


def experiment_lock(folder: Path) -> AbstractContextManager[None]:
    """The lock that a process holds while it runs the experiment in ``folder`` or deletes runs of it.

    Raises:
        DmrecError: another process holds it.
    """
    return locked(folder / ".lock", f"{folder}: another process runs this experiment")


def read_rows(folder: Path) -> list[Row]:
    """The last row of each run, in the order in which the runs were first started.

    A line that a crash cut short is skipped.
    """
    path = folder / ROWS
    if not path.exists():
        return []
    rows: dict[tuple[str, str, int], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        key = run_key(row)
        rows[key] = {**row, "started": rows.get(key, row).get("started", 0)}
    return sorted(rows.values(), key=lambda row: row["started"])


def append_row(folder: Path, row: Row) -> None:
    """Appends a line to ``rows.jsonl``; it is on disk when this returns."""
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


def run_key(row: Row) -> tuple[str, str, int]:
    """Dataset, model and seed, which identify a run in an experiment folder."""
    return row["dataset"], row["model"], row["seed"]


def run_folder(folder: Path, row: Row) -> Path:
    """The folder of the run that a row describes."""
    return folder_of_run(folder, str(row["dataset"]), str(row["model"]), row["seed"])


def finished_row(job: Job, started: float) -> Row:
    """The row of a run that has left its result; ``started`` in seconds since 1970."""
    result = Run(job.folder).result
    environment = result["environment"]
    figures = {name: result[name] for name in RESULT_KEYS if name in result}
    settings = {name: environment[name] for name in ENVIRONMENT_KEYS if name in environment}
    return {**_new_row(job, started), **figures, "state": "finished", **settings}


def failed_row(job: Job, started: float, error: str, *, state: str = "failed") -> Row:
    """The row of a run that ended now without a result; ``started`` in seconds since 1970."""
    seconds = round(time.time() - started, 1)
    return {**_new_row(job, started), "state": state, "error": error, "seconds": seconds}


def _new_row(job: Job, started: float) -> Row:
    row: Row = {"dataset": job.dataset, "model": job.model, "seed": job.seed, "digest": job.digest, "data": job.data}
    return {**row, "started": round(started, 3)}


def pending_jobs(jobs: Sequence[Job], folder: Path, *, retry: bool) -> list[Job]:
    """The jobs that have neither finished nor failed; with ``retry``, failed ones as well.

    A job has finished if it has both a row and a result, for the same options and data.
    """
    done = set()
    for row in read_rows(folder):
        path = run_folder(folder, row)
        if (row["state"] == "finished" and (path / RESULT).exists()) or (row["state"] == "failed" and not retry):
            done.add((path, row["digest"]))
    return [job for job in jobs if (job.folder, job.digest) not in done]


def failed_rows(jobs: Sequence[Job], folder: Path) -> list[Row]:
    """The rows of those of the jobs that failed."""
    keys = {(job.dataset, job.model, job.seed) for job in jobs}
    return [row for row in read_rows(folder) if row["state"] == "failed" and run_key(row) in keys]


def check_folder(folder: Path, jobs: Sequence[Job], advice: str, *, replace: bool = False) -> None:
    """Checks that the finished runs in ``folder`` can be averaged and compared with the jobs, and that these go on with
    the stopped ones; with ``replace``, that the jobs can take the place of the runs of their models.

    Raises:
        DmrecError: there are runs on another version of a dataset, or runs of a model with other options; the message
            ends with ``advice`` in the latter case.
    """
    rows = read_rows(folder)
    if replace:
        _check_data(folder, _of_others(rows, jobs), jobs)
        return
    _check_data(folder, rows, jobs)
    digests = {(job.dataset, job.model): job.digest for job in jobs}
    for row in rows:
        digest = digests.get((row["dataset"], row["model"]), row["digest"])
        if row["state"] == "finished" and digest != row["digest"]:
            raise DmrecError(
                f"{folder} holds runs of {row['model']} on {row['dataset']} with other options or other data: "
                f"name another folder (--out), or {advice}"
            )
    for job in jobs:
        _check_begun(job, advice)


def _check_begun(job: Job, advice: str) -> None:
    """Refuses to remove what a run of other options has computed."""
    finished = is_finished(job.folder)
    if job.is_begun or not (finished or Run(job.folder).is_resumable):
        return
    if not finished:
        check_cut(job.folder, job.config.sharding.shards)
    kept = "finished" if finished else "stopped"
    how = "with other options or other data" if (job.folder / DIGEST).exists() else "that another command has begun"
    hint = "" if finished else f"continue it as it was (dmrec resume {job.folder}), "
    raise DmrecError(f"{job.folder} holds a {kept} run {how}: {hint}name another folder (--out), or {advice}")


def _of_others(rows: Sequence[Row], jobs: Sequence[Job]) -> list[Row]:
    """The rows of models that the jobs do not train."""
    models = {(job.dataset, job.model) for job in jobs}
    return [row for row in rows if (row["dataset"], row["model"]) not in models]


def delete_runs(jobs: Sequence[Job], folder: Path) -> None:
    """Deletes the rows of the jobs' models, of all seeds, for a mean must not mix old runs with new ones. The finished
    runs are kept aside until new ones have finished (see `make_room`).

    Raises:
        DmrecError: runs of other models, which stay, are on another version of a dataset; nothing is deleted then. Or
            another process trains one of the runs.
    """
    rows = read_rows(folder)
    kept = _of_others(rows, jobs)
    _check_data(folder, kept, jobs)
    deleted = {run_folder(folder, row) for row in rows if row not in kept}
    for path in deleted | {job.folder for job in jobs}:
        if path.exists():
            with run_lock(path):
                make_room(path)
    if (folder / ROWS).exists():
        write_atomically(folder / ROWS, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _check_data(folder: Path, rows: Sequence[Row], jobs: Sequence[Job]) -> None:
    planned = [{"dataset": job.dataset, "data": job.data} for job in jobs]
    finished = [row for row in rows if row["state"] == "finished"]
    if name := differing_data([*finished, *planned]):
        raise DmrecError(f"{folder} holds runs on another version of {name}: name another folder (--out)")


def differing_data(rows: Sequence[Row]) -> str | None:
    """The first dataset of which the rows' runs used two versions, by checksum of each file; None if all agree.

    Rows that record no checksums agree with all others.
    """
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        for file, checksum in row.get("data", {}).items():
            if seen.setdefault((row["dataset"], file), checksum) != checksum:
                return str(row["dataset"])
    return None

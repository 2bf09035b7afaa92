"""What the processes that train or rank together must have in common, compared before anything begins."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

import dmrec_ext

from ..data.dataset import MANIFEST, Dataset
from ..errors import DmrecError
from ..files import read_json, sha256_of, write_json
from ..sharding.launch import under_torchrun
from ..sharding.ranks import Ranks, agreed

AGENTS = ".torchrun.json"


def check_shared(ranks: Ranks, folder: Path) -> None:
    """Makes ``folder`` if it is not there, and looks whether every process sees the same one.

    Raises:
        DmrecError: on every rank, where one does not.
    """
    if ranks.size == 1:
        return
    mark = folder / f".shared-{ranks.tell(secrets.token_hex(8))}.tmp"
    ranks.first_does(partial(_leave, mark))
    of_ranks = ranks.gather_values((socket.gethostname(), mark.exists()))
    if ranks.is_first:
        mark.unlink(missing_ok=True)
    for rank, (host, found) in enumerate(of_ranks):
        if not found:
            raise agreed(
                DmrecError(
                    f"rank {rank} on {host} does not see {folder} of rank 0 on {of_ranks[0][0]}: it must lie on "
                    "storage that all machines share"
                )
            )


def check_ranks(ranks: Ranks, dataset: Dataset) -> None:
    """Compares what each process reads and is.

    Raises:
        DmrecError: on every rank, where one has another dataset or computes otherwise.
    """
    if ranks.size == 1:
        return
    own: dict[str, Any] = {"host": socket.gethostname(), "data": sha256_of(dataset.folder / MANIFEST)}
    of_ranks = ranks.gather_values({**own, "computes": _computes()})
    first = of_ranks[0]
    for rank, found in enumerate(of_ranks):
        where = f"rank {rank} on {found['host']}"
        if found["data"] != first["data"]:
            raise agreed(DmrecError(f"{where}: {dataset.folder / MANIFEST} differs from rank 0's"))
        for what, value in found["computes"].items():
            if value != first["computes"][what]:
                wanted = first["computes"][what]
                raise agreed(DmrecError(f"{where} runs {what} {value}, rank 0 {wanted}: bits would differ"))


def begun_before(ranks: Ranks, folder: Path) -> bool:
    """Whether the torchrun job that has started these processes had started others for ``folder`` before them.

    Its count of restarts does not tell: each machine has its own, which leaves out what another machine has caused.
    As long as a job goes on, some of its agents do, the processes that start the workers: a file in the folder names
    them.
    """
    if not under_torchrun():
        return False
    agents = sorted(set(ranks.gather_values(_agent())))
    found: list[bool] = []

    def compare() -> None:
        path = folder / AGENTS
        known = read_json(path) if path.exists() else []
        found.append(not set(known).isdisjoint(agents))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, sorted({*agents, *(known if found[0] else [])}))

    ranks.first_does(compare)
    return ranks.tell(bool(found and found[0]))


def _agent() -> str:
    """The process that has started this one, by its machine, number and time of start."""
    parent = os.getppid()
    status = Path(f"/proc/{parent}/stat")
    started = status.read_text().rpartition(")")[2].split()[19] if status.exists() else ""
    return f"{socket.gethostname()} {parent} {started}"


def verify_together(ranks: Ranks, dataset: Dataset) -> None:
    """Compares the contents of a dataset's files with their checksums, a share of them in each process.

    Raises:
        DmrecError: on every rank, where one of them found a file damaged or missing.
    """
    error = None
    if dataset.manifest["format"] != 1:  # else `open_dataset` has done so
        try:
            dataset.verify(rank=ranks.rank, ranks=ranks.size)
        except DmrecError as found:
            error = found
    ranks.agree(error)


def _leave(mark: Path) -> None:
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _computes() -> dict[str, Any]:
    path = dmrec_ext.native_path("multinomial_nll", "cpu")
    version = "unknown"
    with suppress(importlib.metadata.PackageNotFoundError):  # where it is imported from a folder of sources
        version = importlib.metadata.version("dmrec")
    return {
        "torch": torch.__version__,
        "dmrec": version,
        "dmrec_ext": f"natively ({path.detail})" if path.native else "on plain torch",
        "machine": platform.machine(),
        "threads": f"{torch.get_num_threads()} ({os.environ.get('OMP_NUM_THREADS', 'not set')})",
    }

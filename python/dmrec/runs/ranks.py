"""What the processes that train or rank together must have in common, compared before anything begins."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Any

import torch

import dmrec_ext

from ..data.dataset import MANIFEST, Dataset
from ..errors import DmrecError
from ..files import sha256_of
from ..sharding.ranks import Ranks, agreed


def check_ranks(ranks: Ranks, folder: Path, dataset: Dataset) -> None:
    """Compares what each process sees and is.

    Raises:
        DmrecError: on every rank, where one does not see ``folder``, has another dataset, or computes otherwise.
    """
    if ranks.size == 1:
        return
    ranks.first_does(lambda: folder.mkdir(parents=True, exist_ok=True))
    own: dict[str, Any] = {
        "host": socket.gethostname(),
        "sees": folder.exists(),
        "data": sha256_of(dataset.folder / MANIFEST),
    }
    of_ranks = ranks.gather_values({**own, "computes": _computes()})
    first = of_ranks[0]
    for rank, found in enumerate(of_ranks):
        where = f"rank {rank} on {found['host']}"
        if not found["sees"]:
            raise agreed(DmrecError(f"{where} does not see {folder}: it must lie on storage that all machines share"))
        if found["data"] != first["data"]:
            raise agreed(DmrecError(f"{where}: {dataset.folder / MANIFEST} differs from rank 0's"))
        for what, value in found["computes"].items():
            if value != first["computes"][what]:
                wanted = first["computes"][what]
                raise agreed(DmrecError(f"{where} runs {what} {value}, rank 0 {wanted}: bits would differ"))


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


def _computes() -> dict[str, Any]:
    path = dmrec_ext.native_path("multinomial_nll", "cpu")
    return {
        "torch": torch.__version__,
        "dmrec_ext": f"natively ({path.detail})" if path.native else "on plain torch",
        "machine": platform.machine(),
        "threads": f"{torch.get_num_threads()} ({os.environ.get('OMP_NUM_THREADS', 'not set')})",
    }

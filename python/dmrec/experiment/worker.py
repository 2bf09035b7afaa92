"""One run of a grid, in its own process: ``python -m dmrec.experiment.worker FOLDER``, which holds ``job.yaml``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import torch
from rich.console import Console

from ..config import build_config, read_config
from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..train.checkpoint import GENERATIONS
from ..train.run import clear, is_finished
from ..train.train import resume_run, train_one

PR_SET_PDEATHSIG = 1


def main(folder: Path) -> int:
    """Trains, or goes on from a checkpoint; the last line of stderr says why not."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # also where the runner was killed
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    quiet = Console(quiet=True)
    try:
        config = build_config(read_config(folder / "job.yaml"))
        assert config.data is not None, "a job names its dataset"
        if is_finished(folder):  # its row was lost with the process that would have written it
            return 0
        if any((folder / f"{name}.json").exists() for name in GENERATIONS):
            resume_run(folder, None, quiet)
        else:
            clear(folder)
            train_one(config, open_dataset(config.data), folder, quiet)
    except KeyboardInterrupt:
        return 130
    except (DmrecError, OSError, ArithmeticError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

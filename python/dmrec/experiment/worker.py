"""One run of a grid, in its own process, from ``job.yaml`` in its folder.

``python -m dmrec.experiment.worker FOLDER RUNNER [SOURCE]``; the source registers a model: a module, or a file.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import build_config, read_config
from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..runs.checkpoint import GENERATIONS, load_checkpoint
from ..runs.run import is_finished
from ..training.observer import Observer
from ..training.trainer import resume_run, train
from .runner import INTERRUPTED, JOB

PR_SET_PDEATHSIG = 1


def main(folder: Path, runner: int, source: str | None = None) -> int:
    """Trains, or goes on from a checkpoint; the last line of stderr says why not."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # also where the runner is killed
    if os.getppid() != runner:
        return INTERRUPTED
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    try:
        if source is not None:
            _register(source)
        run_job(folder)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except (DmrecError, OSError, ArithmeticError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _register(source: str) -> None:
    """Imports a module, or a program without running it as one."""
    if not source.endswith(".py"):
        importlib.import_module(source)
        return
    spec = importlib.util.spec_from_file_location("__dmrec_models__", source)
    assert spec is not None, "a .py file has a spec"
    assert spec.loader is not None, "and a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def run_job(folder: Path, observers: Sequence[Observer] = ()) -> None:
    """Trains what ``job.yaml`` in ``folder`` says, from the last checkpoint if there is one."""
    config = build_config(read_config(folder / JOB))
    assert config.data is not None, "a job names its dataset"
    if is_finished(folder):  # its row was lost with the process that would have written it
        return
    if any((folder / f"{name}.json").exists() for name in GENERATIONS):
        try:
            load_checkpoint(folder)
        except DmrecError as error:
            print(f"{error}: from the start", file=sys.stderr)
        else:
            resume_run(folder, None, observers)
            return
    train(config, open_dataset(config.data), folder, observers)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))

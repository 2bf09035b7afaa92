"""Does one thing in a process of its own: a run, from ``job.yaml`` in its folder, or a search, from ``search.yaml``.

``python -m dmrec.experiment.worker FOLDER RUNNER [SOURCE]``: the folder of the run, the process id of the runner, and
the module or file that registers the model, if it is not a built-in one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..config import build_config, read_config
from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..plugins import import_source, load_plugins
from ..runs.checkpoint import NoCheckpointError
from ..runs.ranks import check_shared
from ..runs.run import Run, is_finished
from ..sharding.ranks import ALONE, Ranks
from ..training.observer import Observer
from ..training.trainer import resume_run, train
from .searches import SEARCH, search_or_continue

JOB = "job.yaml"
INTERRUPTED = 130  # exit status after an interruption
RUN_ERRORS = (DmrecError, OSError, ArithmeticError, MemoryError, torch.OutOfMemoryError)
"""Errors that end one run and say why in words; the runs after it are not affected."""
PR_SET_PDEATHSIG = 1


def main(folder: Path, runner: int, source: str | None = None) -> int:
    """Does what ``folder`` asks for; returns the exit status. The last line of stderr is the error."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # in case the runner is killed
    if os.getppid() != runner:
        return INTERRUPTED
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    try:
        load_plugins()
        if source is not None:
            import_source(source)
        do = search_or_continue if (folder / SEARCH).exists() else train_or_resume
        do(folder, _write_line)
    except KeyboardInterrupt:
        _write_line("stopped")
        return INTERRUPTED
    except RUN_ERRORS as error:
        _write_line(error_line(error))
        return 1
    return 0


def _write_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def error_line(error: BaseException) -> str:
    """Type and message of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def train_or_resume(
    folder: Path, report: Callable[[str], None], observers: Sequence[Observer] = (), ranks: Ranks = ALONE
) -> None:
    """Trains the job in ``folder``, from its checkpoint where there is a valid one; a finished run is left as it is.

    ``report`` is called with a line if a checkpoint is damaged, in which case training starts from the beginning.
    ``ranks``: the processes that train together, which all call this.
    """
    check_shared(ranks, folder)
    finished, resumable = ranks.tell((is_finished(folder), Run(folder).is_resumable))
    if finished:  # its row was lost with the process that would have written it
        return
    if resumable:
        try:
            resume_run(folder, None, observers, ranks=ranks)
            return
        except NoCheckpointError as error:
            report(f"{error}: training starts from the beginning")
    config = build_config(read_config(folder / JOB))
    assert config.data is not None, "a job names its dataset"
    train(config, open_dataset(config.data), folder, observers, ranks=ranks)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))

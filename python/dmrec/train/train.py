"""One model, trained and tested."""

from __future__ import annotations

import contextlib
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from rich.console import Console

import dmrec_ext
from dmrec_ext import Csr

from ..config import Config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..eval.ranking import Ranker, evaluate
from ..models.baselines import Ease, EaseConfig, Popularity, is_closed_form
from .board import Board
from .build import about_data, build_task, check_data, resolve
from .checkpoint import NO_STATE, Checkpoint, load_checkpoint, part_of
from .loop import all_metrics, fit
from .progress import Progress
from .run import CONFIG, Run, clear, in_use, is_finished
from .stopping import StopRequest

EASE_ITEMS = 20_000  # N x N in float64 three times, at the worst: about 10 GB


def train(
    config: Config, dataset: Dataset, out: Path, seed: int, console: Console, *, replace: bool = True
) -> dict[str, Any]:
    """Trains and tests in ``out``, in the place of what a run left there; returns the figures.

    Raises:
        DmrecError: a finished run is there and not to be replaced, or another process trains there.
    """
    with in_use(out):
        if is_finished(out) and not replace:
            raise DmrecError(f"{out}: a finished run; name another folder (--out) or replace it (--force)")
        resolved = resolve(config, dataset, seed)  # refuses before anything is removed
        clear(out)
        return _logging_failures(resolved, dataset, out, console, None)


def train_one(
    config: Config, dataset: Dataset, folder: Path, console: Console, resume: Checkpoint | None = None
) -> dict[str, Any]:
    """Trains one model on one seed, tests its best state, leaves a run folder; goes on from ``resume``."""
    with in_use(folder):
        return _logging_failures(config, dataset, folder, console, resume)


def _logging_failures(
    config: Config, dataset: Dataset, folder: Path, console: Console, resume: Checkpoint | None
) -> dict[str, Any]:
    with dmrec_ext.use_reference(config.training.kernels == "reference"):
        try:
            return _train_one(config, dataset, folder, console, resume)
        except Exception as error:
            if (folder / CONFIG).exists():  # it had begun
                with contextlib.suppress(OSError):  # that the log cannot be written may be what is the matter
                    Run(folder).log("failed", error=f"{type(error).__name__}: {error}")
            raise


def _train_one(
    config: Config, dataset: Dataset, folder: Path, console: Console, resume: Checkpoint | None
) -> dict[str, Any]:
    train, valid, test = (Csr.from_scipy(m) for m in (dataset.train, dataset.valid, dataset.test))
    if resume is None:
        run = Run.create(folder, config)
        run.log("start", name=config.name, dataset=dataset.name, seed=config.training.seed)
    else:
        run = Run(folder)
    started = time.perf_counter()
    result: dict[str, Any] = {"name": config.name, "dataset": dataset.name, "seed": config.training.seed}
    about = about_data(config, dataset)
    if is_closed_form(config.model):
        baseline, chosen = fit_baseline(config, dataset, train, valid, run)
        result |= chosen
        run.save(baseline.state(), about)
        ranker: Ranker = baseline
        result["valid"] = evaluate(baseline, train, valid, all_metrics(config)).means
    else:
        torch.manual_seed(config.training.seed)
        task = build_task(config, dataset, NO_STATE if resume is None else part_of(resume.tensors, "model."))
        settings = config.training
        first_epoch = 1 if resume is None else resume.values["place"]["epoch"]
        with (
            Progress(console, config.name, settings.epochs) as progress,
            Board(run.folder if settings.board else None, first_epoch) as board,
            StopRequest() as stop,
        ):
            fitted = fit(task, config, train, valid, run, about, progress, stop, resume, board)
        started = time.perf_counter() - fitted.seconds  # those of a run that was stopped, too
        result["best_epoch"], result["epochs"] = fitted.best_epoch, fitted.epochs
        result["seconds_per_epoch"], result["phases"] = round(fitted.seconds_per_epoch, 4), fitted.phases
        result["precision"] = config.training.precision
        result["vectors"] = config.language.vectors if config.language else None
        result["valid"] = fitted.validation
        ranker = task.ranker
    tested = evaluate(ranker, train, test, config.evaluation.metrics)
    result |= {"test": tested.means, "test_users": tested.n_users, "seconds": round(time.perf_counter() - started, 2)}
    if config.evaluation.per_user:
        run.save_users(tested)
    run.finish({**result, "environment": environment()})
    return result


def resume_run(folder: Path, data: Path | None, console: Console) -> dict[str, Any]:
    """Goes on with a run that was stopped, from its last checkpoint; the same data and configuration."""
    run = Run(folder)
    if not (folder / CONFIG).exists():
        raise DmrecError(f"{folder} is no run (no {CONFIG})")
    with in_use(folder):
        if is_finished(folder):
            raise DmrecError(f"{folder} is finished: dmrec evaluate shows its figures")
        config = run.config
        location = data or config.data
        assert location is not None, "a run's configuration names its dataset"
        dataset = open_dataset(location)
        checkpoint = load_checkpoint(folder)
        check_data(folder, checkpoint.values["about"], config, dataset)
        if changed := differing(checkpoint.values["about"]["config"], config.model_dump(mode="json")):
            raise DmrecError(
                f"{folder / CONFIG} was changed since the run was started: {', '.join(changed)}; train anew"
            )
        return _logging_failures(config, dataset, folder, console, checkpoint)


def differing(before: Any, now: Any, path: str = "") -> list[str]:
    """The keys under which two configurations differ; where the data lies does not matter."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if path or key != "data"]
        return [each for key in keys for each in differing(before.get(key), now.get(key), f"{path}{key}.")]
    return [] if before == now else [path.removesuffix(".")]


def fit_baseline(
    config: Config, dataset: Dataset, train: Csr, valid: Csr, run: Run
) -> tuple[Popularity | Ease, dict[str, Any]]:
    """Popularity, or EASE with the lambda of the best validation score."""
    if not isinstance(config.model, EaseConfig):
        return Popularity(dataset.train), {}
    if dataset.n_items > EASE_ITEMS:
        raise DmrecError(
            f"EASE inverts an items x items matrix: {dataset.n_items} items are too many (limit {EASE_ITEMS})"
        )
    monitor = config.training.monitor
    best: tuple[float, float, Ease] | None = None
    gram = Ease.gram(dataset.train)
    for regularisation in config.model.regularisation:
        model = Ease.fit(gram, regularisation)
        score = evaluate(model, train, valid, [monitor]).means[monitor]
        run.log("evaluation", regularisation=regularisation, **{monitor: score})
        if best is None or score > best[0]:
            best = (score, regularisation, model)
    assert best is not None
    return best[2], {"regularisation": best[1]}


def environment() -> dict[str, Any]:
    """What a figure depends on beside the code: versions, processor, threads, and which operators ran natively."""
    native = [op for op in dmrec_ext.OPERATORS if dmrec_ext.native_path(op, "cpu").native]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "native_operators": native,
    }

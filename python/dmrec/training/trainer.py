"""One run: a model trained or fitted, tested, and left in a folder."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from dmrec_ext import Csr

from ..build import build_model
from ..config import Config, build_config, upgrade
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..eval.activity import activity_of
from ..eval.ranking import evaluate
from ..models.base import ClosedFormModel, Model, TrainedModel, TrainingData
from ..models.carry import carry
from ..runs.checkpoint import Checkpoint, NoCheckpointError, check_cut, load_checkpoint, newest_values, part_of
from ..runs.initial import initial_state
from ..runs.load import held_out_split, shards_of, test_data, test_exclusions, training_data
from ..runs.provenance import check_data, data_metadata
from ..runs.ranks import check_ranks, check_shared, verify_together
from ..runs.run import CONFIG, USERS, Run, is_finished, make_room, run_lock
from ..runs.users import DEPTH, save_users
from ..runtime import Runtime, device_of, resolve_device
from ..sharding.ranks import ALONE, Ranks, agreed
from .loop import all_metrics, fit
from .observer import Observer
from .signals import GracefulInterrupt
from .tensorboard import TensorBoard

MAY_CHANGE = ("data", "training.checkpoint_minutes", "sharding.timeout_minutes")
"""Options of a run that is resumed which decide nothing about its results."""


def train(
    config: Config,
    dataset: Dataset,
    folder: Path,
    observers: Sequence[Observer] = (),
    *,
    replace: bool = True,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Trains and tests a resolved configuration in ``folder``, replacing a run that is there; returns the figures.

    ``ranks``: the processes that train together, which all call this; rank 0 writes, but for the shards of the others.

    Raises:
        DmrecError: a finished or stopped run is there and is not to be replaced, or another process trains there.
    """
    check_shared(ranks, folder)
    check_ranks(ranks, dataset)
    with run_lock(folder, ranks):
        if any(ranks.any(is_finished(folder))) and not replace:
            raise agreed(
                DmrecError(
                    f"{folder}: a finished run; name another folder (--out) or replace it (--force, in Python "
                    "replace=True)"
                )
            )
        if any(ranks.any(Run(folder).is_resumable)) and not replace:
            raise agreed(
                DmrecError(
                    f"{folder}: a stopped run with other options; continue it as it was (dmrec resume {folder}), name "
                    "another folder (--out) or replace it (--force, in Python replace=True)"
                )
            )
        ranks.first_does(lambda: make_room(folder))
        return _logging_failures(config, dataset, folder, observers, None, ranks)


def resume_run(
    folder: Path,
    data: Path | None = None,
    observers: Sequence[Observer] = (),
    *,
    device: str | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Continues a run that was stopped from its last checkpoint, on the same data and configuration.

    ``device``: where, if not where it was started; the bits are those of an uninterrupted run only on the same one.
    ``ranks``: the processes that train together, not necessarily as many as before.
    """
    if not ranks.tell((folder / CONFIG).exists()):
        raise agreed(NoCheckpointError(f"{folder} is not a run (no {CONFIG})"))
    check_shared(ranks, folder)
    ranks.each_does(lambda: check_resumable(folder))
    run = Run(folder)
    with run_lock(folder, ranks):
        config = run.config
        dataset = open_dataset(run.data_folder(data))
        check_ranks(ranks, dataset)
        checkpoint = load_checkpoint(folder, shards_of(config, dataset.n_items, ranks))
        ranks.each_does(lambda: check_data(folder, checkpoint.values["about"], config, dataset))
        if device is not None:
            training = config.training.model_copy(update={"device": str(resolve_device(device))})
            config = config.model_copy(update={"training": training})
        return _logging_failures(config, dataset, folder, observers, checkpoint, ranks)


def check_resumable(folder: Path) -> None:
    """Checks what is seen of a run without reading its checkpoint.

    Raises:
        NoCheckpointError: it is not a run.
        DmrecError: it is finished, or its configuration has been changed, the number of shards for instance.
    """
    if not (folder / CONFIG).exists():
        raise NoCheckpointError(f"{folder} is not a run (no {CONFIG})")
    if is_finished(folder):
        raise DmrecError(f"{folder} is finished: dmrec evaluate shows its figures")
    config = Run(folder).config
    check_cut(folder, config.sharding.shards)
    if (values := newest_values(folder)) is None:
        return
    started_with = build_config(upgrade(values["about"]["config"])).model_dump(mode="json")
    if changed := differing(started_with, config.model_dump(mode="json")):
        raise DmrecError(f"{folder / CONFIG} was changed since the run was started: {', '.join(changed)}; train again")


def _logging_failures(
    config: Config,
    dataset: Dataset,
    folder: Path,
    observers: Sequence[Observer],
    resume: Checkpoint | None,
    ranks: Ranks,
) -> dict[str, Any]:
    settings = config.training
    runtime = Runtime(device_of(settings.device, ranks), settings.precision, settings.kernels, ranks)
    observers = [*observers, *([TensorBoard()] if settings.tensorboard else [])] if ranks.is_first else []
    with runtime.operators():
        try:
            return _train(config, dataset, folder, runtime, observers, resume)
        except Exception as error:
            if (folder / CONFIG).exists() and ranks.is_first:  # the run had begun
                with contextlib.suppress(OSError):  # the log itself may be what cannot be written
                    Run(folder).log("failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            for observer in observers:
                observer.on_end()


def _train(
    config: Config,
    dataset: Dataset,
    folder: Path,
    runtime: Runtime,
    observers: Sequence[Observer],
    resume: Checkpoint | None,
) -> dict[str, Any]:
    started = time.perf_counter()
    items = shards_of(config, dataset.n_items, runtime.ranks)
    if items is not None:
        verify_together(runtime.ranks, dataset)
    run = Run(folder, items)
    result: dict[str, Any] = {"name": config.name, "dataset": dataset.name, "seed": config.training.seed}
    if resume is None:
        run = Run.create(folder, config, items)
        run.log("start", **result)
    saved = None if resume is None else part_of(resume.tensors, "model.")
    initial = initial_state(config, dataset) if resume is None else None
    data = training_data(config, dataset, saved if initial is None else initial, items)
    valid = None if config.training.interactions == "all" else held_out_split(config, dataset, "valid")
    torch.manual_seed(config.training.seed)
    model = build_model(config, data)
    if initial is not None:
        carry(model, initial)
    if isinstance(model, TrainedModel):
        model.to(runtime.device)
        metadata = data_metadata(config, dataset)
        with GracefulInterrupt() as interrupt:
            fitted = fit(model, config, data, valid, run, metadata, runtime, observers, interrupt, resume)
        started = time.perf_counter() - fitted.seconds  # also those before it was stopped
        result |= {
            "best_epoch": fitted.best_epoch,
            "epochs": fitted.epochs,
            **({"best_in_phases": fitted.best_in_phases} if config.phases else {}),
            "seconds_per_epoch": round(fitted.seconds_per_epoch, 4),
            "phases": fitted.phases,
            "precision": config.training.precision,
            "vectors": config.language.vectors if config.language else None,
            "valid": fitted.validation,
        }
    else:
        assert isinstance(model, ClosedFormModel), "a model is fitted or trained"
        result |= _fit_closed_form(model, config, data, valid, data_metadata(config, dataset), run, runtime)
    result |= {"test": {}, "test_users": 0}
    if valid is not None and dataset.manifest["interactions"]["test"]:
        test = held_out_split(config, dataset, "test")
        of_test = test_data(config, dataset, data)
        depth = DEPTH if config.evaluation.per_user and model.ranks_deep else 0
        options: dict[str, Any] = {"exclude_seen": config.evaluation.exclude_seen, "depth": depth}
        options |= {"exclude": test_exclusions(config, dataset), "n_users": config.evaluation.users}
        tested = evaluate(model, of_test, test, config.evaluation.metrics, **options)
        result |= {"test": tested.means, "test_users": tested.n_users}
        if tested.random_ties:
            result |= {"test_random_ties": tested.random_ties}
        if config.evaluation.per_user:
            if runtime.ranks.is_first:
                save_users(run.folder / USERS, tested, of_test.interactions.crow.diff()[tested.users])
            if activity := activity_of(model, of_test):
                result |= {"activity": activity}
    result |= {"seconds": round(time.perf_counter() - started, 2)}
    run.finish({**result, "environment": environment(runtime)})
    return result


def _fit_closed_form(
    model: ClosedFormModel,
    config: Config,
    data: TrainingData,
    valid: Csr | None,
    metadata: dict[str, Any],
    run: Run,
    runtime: Runtime,
) -> dict[str, Any]:
    """Fits and saves the model; returns what was chosen, and its figures on ``valid`` if it is given."""
    monitor = config.training.monitor
    options: dict[str, Any] = {"exclude_seen": config.evaluation.exclude_seen, "n_users": config.evaluation.users}

    def score(candidate: Model, /, **settings: float) -> float:
        if valid is None:
            return 0.0
        value = evaluate(candidate.to(runtime.device), data, valid, [monitor], **options).means[monitor]
        run.log("evaluation", **settings, **{monitor: value})
        return value

    chosen = model.fit(data, score)
    model.to(runtime.device)
    run.save(model.state_dict(), metadata)
    if valid is None:
        return {**chosen, "valid": {}}
    found = evaluate(model, data, valid, all_metrics(config), **options)
    return {**chosen, "valid": found.means}


def differing(before: Any, now: Any, path: str = "") -> list[str]:
    """The keys under which two configurations differ, but for those that `MAY_CHANGE`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if f"{path}{key}" not in MAY_CHANGE]
        return [each for key in keys for each in differing(before.get(key), now.get(key), f"{path}{key}.")]
    return [] if before == now else [path.removesuffix(".")]


def environment(runtime: Runtime) -> dict[str, Any]:
    """What a figure depends on other than the code: versions, processor, device, threads, native operators."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        **runtime.describe(),
    }

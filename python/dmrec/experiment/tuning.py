"""Hyperparameter search on validation, with optuna: TPE and median pruning. All trials are kept in a database.

The test interactions are never used. An interrupted search can be continued; a trial that was interrupted is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..build import build_model
from ..config import Config, build_config, read_config
from ..data.dataset import Dataset
from ..errors import DmrecError
from ..files import locked, write_atomically
from ..models.base import TrainedModel
from ..models.vae.model import BackboneConfig
from ..options import Options, SearchSpace, apply_overrides, deep_merge
from ..runs.load import training_data
from ..runs.provenance import data_metadata, fingerprint
from ..runs.resolve import resolve
from ..runs.run import CHECKPOINT, WEIGHTS, Run, clear
from ..runtime import Runtime, resolve_device
from ..training.loop import fit
from ..training.observer import Observer

DATABASE, BEST = "study.db", "best.yaml"


def search(
    values: dict[str, Any],
    space: SearchSpace,
    dataset: Dataset,
    out: Path,
    trials: int,
    seed: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Searches until ``trials`` trials have completed or were pruned, with those of earlier calls.

    Args:
        values: the configuration whose options are searched.
        space: the options to search; see `read_space`.
        dataset: its training and validation interactions are used.
        out: the folder of the search. The best options are written to ``best.yaml`` in it.
        trials: the number of trials. Failed ones (a diverging loss) count too, so that every search ends.
        seed: of the sampler.
        report: is called with a line for each trial.

    Returns:
        The best values, by option.

    Raises:
        DmrecError: ``out`` holds another search, or another process searches there, or no trial has completed.
    """
    optuna = _import_optuna()
    with locked(out / ".lock", f"{out}: another process searches here"):
        study = _open_study(values, space, dataset, out, seed)
        states = optuna.trial.TrialState
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(_within(values, space))
        for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            study.tell(trial.number, state=states.FAIL)  # interrupted
            study.enqueue_trial(trial.params)
        while (left := trials - len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))) > 0:
            trial = study.ask()
            chosen = {key: _suggest(trial, key, domain) for key, domain in space.items()}
            try:
                score = _train(values, chosen, dataset, out / f"trial-{trial.number}", trial)
            except optuna.TrialPruned:
                study.tell(trial, state=states.PRUNED)
                outcome = "pruned"
            except ArithmeticError as error:
                study.tell(trial, state=states.FAIL)
                trials -= 1
                outcome = f"failed, {error}"
            except Exception:
                study.tell(trial, state=states.FAIL)
                raise
            else:
                study.tell(trial, score)
                outcome = f"{score:.4f}"
            report(f"trial {trial.number}: {outcome}, {_in_words(chosen)} ({left - 1} left)")
        if not study.get_trials(deepcopy=False, states=(states.COMPLETE,)):
            raise DmrecError(f"no trial in {out} has completed: all were pruned or failed; search elsewhere (--space)")
        _save_best(study, values, out)
        return dict(study.best_params)


def read_trials(out: Path, name: str) -> Iterator[dict[str, Any]]:
    """All trials of the search ``name`` in a folder: number, state, score, seconds, and the values of the options."""
    study = _import_optuna().load_study(study_name=name, storage=f"sqlite:///{out / DATABASE}")
    for trial in study.get_trials(deepcopy=False):
        taken = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
        about = {"trial": trial.number, "state": trial.state.name.lower(), "score": trial.value, "seconds": taken}
        yield {**about, **trial.params}


def best_trials(out: Path, name: str, count: int) -> list[dict[str, Any]]:
    """The trials with the highest scores, the best one first; those without a score come last."""
    scored = [trial for trial in read_trials(out, name) if trial["score"] is not None]
    unscored = [trial for trial in read_trials(out, name) if trial["score"] is None]
    return [*sorted(scored, key=lambda trial: -trial["score"]), *unscored][:count]


def default_space(config: Config) -> SearchSpace:
    """The options that are searched by default: the search spaces of the parts, for options that are single values.

    An autoencoder without language also has the weight of its divergence searched, since DMRec's beta decides how much
    of it is left.
    """
    space: SearchSpace = {}
    if isinstance(config.model, BackboneConfig) and config.language is None:
        space["training.annealing.cap"] = {"low": 5e-4, "high": 1.0, "log": True}
    for name in type(config).model_fields:
        options = getattr(config, name)
        if isinstance(options, Options):
            for key, domain in options.search_space.items():
                if isinstance(getattr(options, key), int | float | str):
                    space[f"{name}.{key}"] = dict(domain)
    return space


def read_space(path: Path | None, values: dict[str, Any]) -> SearchSpace:
    """The options to search in the configuration ``values``: those in a YAML file, or those of `default_space`.

    For each option, such as ``model.dropout``: ``{low, high}``, with ``log: true`` for a logarithmic scale, or
    ``{choices: [..]}``.

    Raises:
        DmrecError: an option or a value is not valid.
    """
    config = build_config(values)
    if path is None:
        return default_space(config)
    known = _options_of(config)
    space = read_config(path)
    for key, domain in space.items():
        if isinstance(domain, dict):  # YAML reads 1e-4 as a string, 1.0e-4 as a number
            space[key] = domain = {name: _to_number(value) for name, value in domain.items()}
        ranged = (
            isinstance(domain, dict) and domain.keys() <= {"low", "high", "log"} and {"low", "high"} <= domain.keys()
        )
        chosen = isinstance(domain, dict) and domain.keys() == {"choices"} and isinstance(domain["choices"], list)
        if (not ranged and not chosen) or (chosen and not domain["choices"]):
            raise DmrecError(
                f"{path}, {key}: must be {{low, high}}, with log: true, or {{choices: [..]}}, got {domain!r}"
            )
        if ranged:
            space[key] = domain = {**domain, **_bounds(domain, known.get(key), f"{path}, {key}")}
        for value in domain["choices"] if chosen else (domain["low"], domain["high"]):
            build_config(apply_overrides(values, [f"{key}={yaml.safe_dump(value).splitlines()[0]}"]))
    return space


def _options_of(config: Config) -> dict[str, Any]:
    """The values of all options in sections, by ``section.option``."""
    sections = config.model_dump().items()
    return {f"{name}.{key}": value for name, each in sections if isinstance(each, dict) for key, value in each.items()}


def _bounds(domain: dict[str, Any], present: Any, where: str) -> dict[str, int | float]:
    """Both bounds, as integers if the option is one (``present`` is its value), else as floats."""
    bounds = {name: domain[name] for name in ("low", "high")}
    if (
        not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds.values())
        or not bounds["low"] < bounds["high"]
    ):
        raise DmrecError(f"{where}: low must be a number below high, got {domain!r}")
    if domain.get("log") and bounds["low"] <= 0:
        raise DmrecError(f"{where}: on a logarithmic scale low must be above 0, got {domain!r}")
    if isinstance(present, int) and all(float(bound).is_integer() for bound in bounds.values()):
        return {name: int(bound) for name, bound in bounds.items()}
    return {name: float(bound) for name, bound in bounds.items()}


def _to_number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _open_study(values: dict[str, Any], space: SearchSpace, dataset: Dataset, out: Path, seed: int) -> Any:
    """The study in ``out``, a new one or an earlier one of the same options and data."""
    optuna = _import_optuna()
    storage, name = f"sqlite:///{out / DATABASE}", str(values["name"])
    if others := set(optuna.get_all_study_names(storage)) - {name}:
        raise DmrecError(f"{out} holds a search of {', '.join(sorted(others))}: name another folder (--out)")
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=10),
    )
    # the seed depends on the number of trials, so that a continued search does not draw the same values again
    sampler_seed = np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False))]).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(sampler_seed[0]))
    config = resolve(build_config(values), dataset, 0)
    metadata = {"space": space, "values": values, "data": fingerprint(config, dataset)}
    written = {"metadata": study.user_attrs.get("about", metadata), **study.user_attrs}[
        "metadata"
    ]  # "about": before 0.2
    if written != metadata:
        raise DmrecError(f"{out} holds a search of other options, or on other data: name another folder (--out)")
    study.set_user_attr("metadata", metadata)
    return study


def _train(values: dict[str, Any], chosen: dict[str, Any], dataset: Dataset, folder: Path, trial: Any) -> float:
    """Trains one trial; returns its best score on validation."""
    config: Config = build_config(deep_merge(values, sections(chosen)))
    config = resolve(config, dataset, config.training.seed)
    clear(folder)
    run = Run.create(folder, config)
    run.log("start", name=config.name, dataset=dataset.name, seed=config.training.seed)
    torch.manual_seed(config.training.seed)
    settings = config.training
    runtime = Runtime(resolve_device(settings.device), settings.precision, settings.kernels)
    with runtime.operators():
        data = training_data(config, dataset)
        model = build_model(config, data).to(runtime.device)
        assert isinstance(model, TrainedModel), "a model in closed form has nothing to search"
        metadata = data_metadata(config, dataset)
        fitted = fit(model, config, data, dataset.split("valid"), run, metadata, runtime, [PruningObserver(trial)])
    return fitted.score


class PruningObserver(Observer):
    """Reports the best score of each evaluation to the study, which may prune the trial."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def on_evaluation(self, epoch: int, metrics: Mapping[str, float], score: float, best: float) -> None:
        """Reports ``best``.

        Raises:
            optuna.TrialPruned: the trial is worse than the median of the others at this epoch.
        """
        self.trial.report(best, epoch)
        if self.trial.should_prune():
            raise _import_optuna().TrialPruned


def _suggest(trial: Any, key: str, domain: dict[str, Any]) -> Any:
    """A value of the option ``key``, drawn by the sampler."""
    if "choices" in domain:
        return trial.suggest_categorical(key, domain["choices"])
    low, high = domain["low"], domain["high"]
    suggest = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
    return suggest(key, low, high, log=bool(domain.get("log", False)))


def sections(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Options ``section.option`` as values in sections."""
    values: dict[str, Any] = {}
    for key, value in chosen.items():
        over: Any = value
        for part in reversed(key.split(".")):
            over = {part: over}
        values = deep_merge(values, over)
    return values


def _within(values: dict[str, Any], space: SearchSpace) -> dict[str, Any]:
    """The options that ``values`` have in the space, so that a search begins with what it is to improve."""
    found = {}
    for key, domain in space.items():
        present: Any = build_config(values).model_dump()
        for part in key.split("."):
            present = present[part]
        if present in domain["choices"] if "choices" in domain else domain["low"] <= present <= domain["high"]:
            found[key] = present
    return found


def _save_best(study: Any, values: dict[str, Any], out: Path) -> None:
    """Writes the best options, and deletes the weights of the other trials."""
    best = _to_builtin(deep_merge(values, sections(study.best_params)))
    write_atomically(out / BEST, yaml.safe_dump(best, sort_keys=False).encode())
    for folder in out.glob("trial-*"):
        if folder.name != f"trial-{study.best_trial.number}":
            for name in (WEIGHTS, CHECKPOINT):
                (folder / name).unlink(missing_ok=True)


def _to_builtin(value: Any) -> Any:
    """The value with NumPy's numbers as Python's, at any depth of dictionaries."""
    if isinstance(value, dict):
        return {key: _to_builtin(each) for key, each in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _in_words(chosen: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in chosen.items()
    )


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise DmrecError("tuning needs optuna: pip install 'dmrec[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

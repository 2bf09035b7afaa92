"""Options searched on validation: optuna's TPE with median pruning, every trial kept in a database.

The test interactions are never looked at. A search that was stopped goes on; a trial that was cut short is done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from ..build import build_model
from ..config import Config, build_config, read_config
from ..data.dataset import Dataset
from ..errors import DmrecError
from ..files import locked, write_atomically
from ..models.base import TrainedModel
from ..options import Options, apply_overrides, deep_merge
from ..runs.load import training_data
from ..runs.provenance import data_metadata, fingerprint
from ..runs.resolve import resolve
from ..runs.run import CHECKPOINT, WEIGHTS, Run, clear
from ..runtime import Runtime, resolve_device
from ..training.loop import fit
from ..training.observer import Observer

DATABASE, BEST = "study.db", "best.yaml"
Space = dict[str, dict[str, Any]]


def read_space(path: Path | None, values: dict[str, Any]) -> Space:
    """What is searched: of a file, or the default's keys that the model has with a single value."""
    filled = build_config(values).model_dump()
    known = {
        f"{s}.{key}": v for s, section in filled.items() if isinstance(section, dict) for key, v in section.items()
    }
    if path is None:
        return default_space(build_config(values))
    space = read_config(path)
    for key, how in space.items():
        if isinstance(how, dict):  # YAML reads 1e-4 as a word, 1.0e-4 as a number
            space[key] = how = {name: _number(value) for name, value in how.items()}
        ranged = isinstance(how, dict) and how.keys() <= {"low", "high", "log"} and {"low", "high"} <= how.keys()
        chosen = isinstance(how, dict) and how.keys() == {"choices"} and isinstance(how["choices"], list)
        if (not ranged and not chosen) or (chosen and not how["choices"]):
            raise DmrecError(f"{path}, {key}: must be {{low, high}}, with log: true, or {{choices: [..]}}, got {how!r}")
        if ranged:
            space[key] = how = {**how, **_ends(how, known.get(key), f"{path}, {key}")}
        for value in how["choices"] if chosen else (how["low"], how["high"]):
            build_config(apply_overrides(values, [f"{key}={yaml.safe_dump(value).splitlines()[0]}"]))
    return space


def default_space(config: Config) -> Space:
    """The search spaces that the parts of a configuration declare, as far as it gives them single values."""
    space: Space = {}
    for name in type(config).model_fields:
        options = getattr(config, name)
        if isinstance(options, Options):
            for key, how in options.search_space.items():
                if isinstance(getattr(options, key), int | float):
                    space[f"{name}.{key}"] = dict(how)
    return space


def _ends(how: dict[str, Any], present: Any, where: str) -> dict[str, int | float]:
    """Both ends as numbers of the option's own kind: a share from 0 to 1 is no whole number."""
    ends = {name: how[name] for name in ("low", "high")}
    if not all(type(end) in (int, float) for end in ends.values()) or not ends["low"] < ends["high"]:
        raise DmrecError(f"{where}: low must be a number below high, got {how!r}")
    if how.get("log") and ends["low"] <= 0:
        raise DmrecError(f"{where}: on a logarithmic scale low must be above 0, got {how!r}")
    if isinstance(present, int) and all(float(end).is_integer() for end in ends.values()):
        return {name: int(end) for name, end in ends.items()}
    return {name: float(end) for name, end in ends.items()}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def search(
    values: dict[str, Any],
    space: Space,
    dataset: Dataset,
    out: Path,
    trials: int,
    seed: int,
    console: Console,
) -> dict[str, Any]:
    """Until there are ``trials`` finished ones; the best options, which also stand in ``best.yaml``."""
    optuna = _optuna()
    with locked(out / ".lock", f"{out}: another process searches here"):
        study = _study(values, space, dataset, out, seed)
        states = optuna.trial.TrialState
        for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            study.tell(trial.number, state=states.FAIL)
            study.enqueue_trial(trial.params)
        while (left := trials - len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))) > 0:
            trial = study.ask()
            chosen = {key: _suggest(trial, key, how) for key, how in space.items()}
            try:
                score = _train(values, chosen, dataset, out / f"trial-{trial.number}", trial)
                study.tell(trial, score)
            except optuna.TrialPruned:
                study.tell(trial, state=states.PRUNED)
            except ArithmeticError as error:
                study.tell(trial, state=states.FAIL)
                trials -= 1  # it counts, or a space of diverging options would be searched forever
                console.print(f"trial {trial.number} failed: {error}", highlight=False)
                continue
            except Exception:
                study.tell(trial, state=states.FAIL)
                raise
            said = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in chosen.items()
            )
            state = study.get_trials(deepcopy=False)[trial.number]
            figure = f"{state.value:.4f}" if state.state == states.COMPLETE else "pruned"
            console.print(f"trial {trial.number}: {figure}, {said} ({left - 1} left)", highlight=False)
        if not study.get_trials(deepcopy=False, states=(states.COMPLETE,)):
            raise DmrecError(
                f"no trial in {out} came to its end: all were pruned or failed; search elsewhere (--space)"
            )
        _keep_best(study, values, out)
        return dict(study.best_params)


def _study(values: dict[str, Any], space: Space, dataset: Dataset, out: Path, seed: int) -> Any:
    """The search in ``out``, new or as it was left."""
    optuna = _optuna()
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
    # a search that goes on must not draw again what it drew at first
    drawn = np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False))]).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(drawn[0]))
    config = resolve(build_config(values), dataset, 0)
    about = {"space": space, "values": values, "data": fingerprint(config, dataset)}
    if study.user_attrs.get("about", about) != about:
        raise DmrecError(f"{out} holds a search of other options, or on other data: name another folder (--out)")
    study.set_user_attr("about", about)
    return study


def rows(out: Path, name: str) -> Iterator[dict[str, Any]]:
    """All trials of a search: number, state, score, options."""
    study = _optuna().load_study(study_name=name, storage=f"sqlite:///{out / DATABASE}")
    for trial in study.get_trials(deepcopy=False):
        yield {"trial": trial.number, "state": trial.state.name.lower(), "score": trial.value, **trial.params}


def _train(values: dict[str, Any], chosen: dict[str, Any], dataset: Dataset, folder: Path, trial: Any) -> float:
    """One trial: the best validation score."""
    config: Config = build_config(_set(values, chosen))
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
        fitted = fit(model, config, data, dataset.split("valid"), run, metadata, runtime, [_Pruning(trial)])
    return float(fitted.validation[config.training.monitor])


class _Pruning(Observer):
    """Reports each evaluation to the study, which may stop the trial."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def on_evaluation(self, epoch: int, metrics: Mapping[str, float], score: float, best: float) -> None:
        """Reports the best score so far."""
        self.trial.report(best, epoch)
        if self.trial.should_prune():
            raise _optuna().TrialPruned


def _suggest(trial: Any, key: str, how: dict[str, Any]) -> Any:
    if "choices" in how:
        return trial.suggest_categorical(key, how["choices"])
    suggest = trial.suggest_int if isinstance(how["low"], int) and isinstance(how["high"], int) else trial.suggest_float
    return suggest(key, how["low"], how["high"], log=bool(how.get("log", False)))


def _set(values: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    for key, value in chosen.items():
        over: Any = value
        for part in reversed(key.split(".")):
            over = {part: over}
        values = deep_merge(values, over)
    return values


def _keep_best(study: Any, values: dict[str, Any], out: Path) -> None:
    """Writes the options; of the other trials configuration and log stay, weights go."""
    write_atomically(out / BEST, yaml.safe_dump(_plain(_set(values, study.best_params)), sort_keys=False).encode())
    for folder in out.glob("trial-*"):
        if folder.name != f"trial-{study.best_trial.number}":
            for name in (WEIGHTS, CHECKPOINT):
                (folder / name).unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise DmrecError("tuning needs optuna: pip install 'dmrec[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

"""An experiment as a YAML file: datasets x models x seeds.

datasets: [data/amazon-scientific]
seeds: [0, 1, 2]
training: {precision: bf16}         # sections for all models
models:
  mult-vae:                         # a recipe
  dmrec-m: {matching: {beta: 0.4}}  # a recipe with other options
  beta-0.1: {recipe: dmrec-m, matching: {beta: 0.1}, seeds: [0]}
  dmrec-c: {sweep: {matching.beta: [0, 0.5, 1]}}                    # dmrec-c@beta=0 and so on
  dmrec-g: {on: {amazon-scientific: {matching: {beta: 0.4}}}}       # options on one dataset
  mine: {model: {kind: mine}}       # a whole configuration
against: [ease]                     # compared with every model
tune: {trials: 30, seed: 1000}      # each trained model on each dataset, before its runs
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, build_config, read_config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError, did_you_mean
from ..files import read_json
from ..models.vae.model import BackboneConfig
from ..options import LARGEST_SEED, Options, apply_overrides, deep_merge
from ..recipes import RECIPES, recipe
from ..runs.provenance import depends_on
from ..runs.resolve import resolve
from ..runs.run import CONFIG, Run, run_folder

SECTIONS = ("language", "matching", "alignment", "phases", "training", "evaluation")
KEYS = ("datasets", "seeds", "models", "against", "tune", *SECTIONS)
PLAN = "experiment.yaml"
"""In an experiment's folder: the file that it was run from."""
TUNING, TUNED = "tuning", "tuned.json"
"""In an experiment's folder: searches, in DATASET/MODEL; and what each of them found."""
DIGEST = "job.sha256"
"""In the folder of a run: the digest of the job that it was started from."""
NOT_IN_DIGEST = ("seed", "device", "tensorboard", "checkpoint_minutes", "log_terms_every")  # of the section training
LATER = {
    "training": ("interactions", "optimiser", "weight_decay", "schedule", "warmup", "clip", "initial"),
    "evaluation": ("test_input", "exclude_seen", "exclude_validation", "users"),
    "sharding": ("shards", "sums"),
    "language": ("alone",),
    "model": ("item_text",),
    "tiger": ("posterior",),
    "lightgcn": ("initial", "initial_scale", "item_embeddings", "norms", "readout", "keep", "edge_dropout"),
}
"""Options that came after version 0.1, by section or kind of model: where they have their default, digests are as they
were.
"""


@dataclass(frozen=True)
class Job:
    """A run to be done: one model on one dataset with one seed."""

    dataset: str
    model: str
    seed: int
    config: Config  # resolved
    data: dict[str, Any]  # checksums of the data that it depends on
    folder: Path  # of the run

    @property
    def digest(self) -> str:
        """A hash of all options and data that decide the model's results, except the seed and the device.

        Runs with equal digests are runs of one model, whose results may be averaged.
        """
        values = self.config.model_dump(mode="json")
        for section in ("alignment", "phases"):
            if not values[section]:
                del values[section]
        values["data"] = self.data
        values["training"] = {key: value for key, value in values["training"].items() if key not in NOT_IN_DIGEST}
        for key, names in LATER.items():
            section = "model" if key == self.config.model.kind else key
            options = getattr(self.config, section, None)
            if not isinstance(options, Options):
                continue
            for name in names:
                field = type(options).model_fields.get(name)
                if field is not None and values[section][name] == field.default:  # as before there was a choice
                    del values[section][name]
        values["sharding"].pop("timeout_minutes")
        if not values["sharding"]:
            del values["sharding"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def is_begun(self) -> bool:
        """Whether the folder is of this very job; options and data are those that the run there was started with."""
        path = self.folder / DIGEST
        return path.exists() and path.read_text(encoding="utf-8") == self.digest


@dataclass(frozen=True)
class PlannedModel:
    """A model of an experiment file: what its configuration is on each dataset, and with which seeds it is run."""

    name: str
    values: dict[str, Any]
    on: dict[str, dict[str, Any]]  # by dataset: options that replace some of the values there
    overrides: dict[str, Any]  # that replace all others
    seeds: list[int]
    is_tuned: bool

    def on_dataset(self, dataset: str, tuned: dict[str, Any] | None = None) -> dict[str, Any]:
        """The values of the configuration on a dataset, with those that a search found where there are such."""
        values = deep_merge(deep_merge(self.values, self.on.get(dataset, {})), tuned or {})
        return deep_merge(values, self.overrides)


@dataclass(frozen=True)
class Search:
    """A search for a model's options on a dataset, before its runs."""

    dataset: Dataset
    model: str
    values: dict[str, Any]
    trials: int
    seed: int
    folder: Path


@dataclass(frozen=True)
class Plan:
    """An experiment file: datasets, models, seeds, and how models are tuned."""

    datasets: list[Dataset]
    models: list[PlannedModel]
    tune: dict[str, int] | None
    out: Path

    def searches(self) -> list[Search]:
        """The searches that come before the runs: of each trained model on each dataset, with as many trials each."""
        if self.tune is None:
            return []
        return [
            Search(
                dataset, model.name, values, self.tune["trials"], self.tune["seed"], self._search_folder(dataset, model)
            )
            for model in self.models
            for dataset in self.datasets
            if model.is_tuned and build_config(values := model.on_dataset(dataset.name)).model.is_random
        ]

    def jobs(self) -> list[Job]:
        """The runs: all models with the first seed, then all with the second, and so on.

        Raises:
            DmrecError: an option is not valid on a dataset, or a search has not ended.
        """
        searched = {search.folder for search in self.searches()}
        jobs = []
        for model in self.models:
            for dataset in self.datasets:
                folder = self._search_folder(dataset, model)
                tuned = read_tuned(folder) if folder in searched else None
                config = build_config(model.on_dataset(dataset.name, tuned))
                jobs += grid(config, [dataset], model.seeds, self.out)
        if len({job.folder for job in jobs}) < len(jobs):
            raise DmrecError("two datasets have one name, or a seed is named twice")
        return sorted(jobs, key=lambda job: job.seed)

    def _search_folder(self, dataset: Dataset, model: PlannedModel) -> Path:
        return self.out / TUNING / dataset.name / model.name


def read_plan(path: Path, out: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """What an experiment file describes.

    Args:
        path: the YAML file.
        out: the experiment folder.
        overrides: option values for all models, which take precedence over those in the file.

    Raises:
        DmrecError: the file, a dataset or an option is not valid.
    """
    values = read_config(path)
    models = read_models(values, path, overrides or {})
    if not isinstance(values["datasets"], list) or not all(isinstance(each, str) for each in values["datasets"]):
        raise DmrecError(f"{path}: datasets must be a list of folders, got {values['datasets']!r}")
    datasets = [open_dataset(Path(folder)) for folder in values["datasets"]]
    names = [dataset.name for dataset in datasets]
    for model in models:
        for name in model.on:
            if name not in names:
                raise DmrecError(f"{path}, {model.name}.on: no dataset is called '{name}'{did_you_mean(name, names)}")
        for name in names:  # what is wrong is said before anything runs
            build_config(model.on_dataset(name))
    return Plan(datasets, models, _tuning(values.get("tune"), models, path), out)


def _tuning(given: Any, models: Sequence[PlannedModel], path: Path) -> dict[str, int] | None:
    """Trials and seed of the searches."""
    if given is None:
        return None
    if not isinstance(given, dict) or not given.keys() <= {"trials", "seed"} or "trials" not in given:
        raise DmrecError(f"{path}: tune must be like {{trials: 30, seed: 1000}}, got {given!r}")
    trials, seed = given["trials"], given.get("seed", 1000)
    if not _is_seed(trials) or trials < 1 or not _is_seed(seed):
        raise DmrecError(f"{path}: tune.trials must be a whole number above 0, and tune.seed a seed, got {given!r}")
    if any(seed in model.seeds for model in models):
        raise DmrecError(f"{path}: tune.seed must be none of the seeds that models are tested with, got {seed}")
    return {"trials": trials, "seed": seed}


def read_models(values: dict[str, Any], path: Path, overrides: dict[str, Any]) -> list[PlannedModel]:
    """The models in an experiment file with these values, those of a sweep one by one; ``path`` is for messages."""
    for key in values:
        if key not in KEYS:
            raise DmrecError(f"{path}: unknown key '{key}'{did_you_mean(str(key), KEYS)}")
    for key in ("datasets", "models"):
        if not values.get(key):
            raise DmrecError(f"{path} names no {key}")
    models = values["models"]
    if isinstance(models, list) and all(isinstance(each, str) for each in models):
        models = dict.fromkeys(models)
    if not isinstance(models, dict) or not all(
        isinstance(name, str) and isinstance(options, dict | None) for name, options in models.items()
    ):
        raise DmrecError(f"{path}: models must be names, or names with options, got {values['models']!r}")
    shared = {section: values[section] for section in SECTIONS if values.get(section) is not None}
    found = []
    for name, given in models.items():
        options = dict(given or {})
        seeds = parse_seeds(options.pop("seeds", values.get("seeds", [0])))
        base = options.pop("recipe", name)
        if not isinstance(base, str):
            raise DmrecError(f"{path}, {name}: recipe must be the name of one, got {base!r}")
        on, tuned = options.pop("on", None) or {}, options.pop("tune", True)
        if not isinstance(on, dict) or not all(isinstance(each, dict) for each in on.values()):
            raise DmrecError(f"{path}, {name}.on: must be options by dataset, like {{yelp: {{..}}}}, got {on!r}")
        if not isinstance(tuned, bool):
            raise DmrecError(f"{path}, {name}.tune: false leaves this model as it is, got {tuned!r}")
        points = _sweep(options.pop("sweep", None), f"{path}, {name}.sweep")
        whole = base == name not in RECIPES and isinstance(options.get("model"), dict) and "kind" in options["model"]
        own = deep_merge({} if whole else recipe(base), options)
        merged = deep_merge(with_shared_sections(own, shared), options)
        for point in points:
            swept = apply_overrides(merged, [f"{key}={value}" for key, value in point.items()])
            called = "@".join([name, *(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())])
            model = PlannedModel(called, {**swept, "name": called}, on, overrides, seeds, tuned)
            build_config(model.on_dataset(""))
            found.append(model)
    names = [model.name for model in found]
    against = values.get("against") or []
    if not isinstance(against, list) or not all(name in names for name in against):
        raise DmrecError(f"{path}: against must be a list of names of models in this file, got {against!r}")
    return found


def _sweep(given: Any, where: str) -> list[dict[str, Any]]:
    """The points of a sweep, each a value for every option: all combinations."""
    if given is None:
        return [{}]
    if not isinstance(given, dict) or not all(isinstance(each, list) and each for each in given.values()):
        raise DmrecError(f"{where}: must be lists of values, like {{matching.beta: [0, 0.5, 1]}}, got {given!r}")
    for value in (value for each in given.values() for value in each):
        if not isinstance(value, bool | int | float | str):
            raise DmrecError(f"{where}: values must be numbers or words, got {value!r}")
    return [dict(zip(given, point, strict=True)) for point in itertools.product(*given.values())]


def read_tuned(folder: Path) -> dict[str, Any]:
    """The options that a search in ``folder`` found, in sections.

    Raises:
        DmrecError: it has not ended.
    """
    if not (folder / TUNED).exists():
        raise DmrecError(f"{folder}: the search has not ended; run the experiment again to continue it")
    return dict(read_json(folder / TUNED)["options"])


def compared_with(folder: Path) -> list[str]:
    """The models with which the experiment in ``folder`` compares every other one, by its file; none without a file."""
    path = folder / PLAN
    return list(read_config(path).get("against") or []) if path.exists() else []


def with_shared_sections(values: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the sections for all models; language and matching only for a model that has them."""
    absent = {"language", "matching"} - values.keys()
    return deep_merge(values, {section: options for section, options in shared.items() if section not in absent})


def grid(config: Config, datasets: Sequence[Dataset], seeds: Sequence[int], out: Path) -> list[Job]:
    """The runs of one model on all datasets with all seeds, in the experiment folder ``out``.

    They keep every user's test values, for paired tests. A model without anything random gets the first seed alone.
    """
    evaluation = config.evaluation.model_copy(update={"per_user": True})
    config = config.model_copy(update={"evaluation": evaluation})
    if not config.model.is_random:
        seeds = seeds[:1]
    jobs = []
    for dataset in datasets:
        if Path(dataset.name).name != dataset.name or dataset.name in (".", ".."):
            raise DmrecError(f"the dataset's name '{dataset.name}' cannot name a folder: import it again with --name")
        for seed in seeds:
            folder = run_folder(out, dataset.name, config.name, seed)
            resolved = resolve(_as_begun(config, folder), dataset, seed)
            jobs.append(Job(dataset.name, config.name, seed, resolved, depends_on(resolved, dataset), folder))
    return jobs


def _as_begun(config: Config, folder: Path) -> Config:
    """``config``, with what was measured and chosen for the run in ``folder`` if there is one."""
    if config.training.precision != "auto" or not (folder / CONFIG).exists():
        return config
    training = config.training.model_copy(update={"precision": Run(folder).config.training.precision})
    return config.model_copy(update={"training": training})


def parse_seeds(value: Any) -> list[int]:
    """A list of seeds as it is, or a number of seeds as a list from 0."""
    seeds = list(range(value)) if isinstance(value, int) else value
    if not isinstance(seeds, list) or not seeds or not all(_is_seed(seed) for seed in seeds):
        raise DmrecError(f"seeds must be whole numbers, like [0, 1, 2], or how many, got {value!r}")
    return [int(seed) for seed in seeds]


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_SEED


def backbone_of(config: Config) -> str | None:
    """The kind of the backbone; None for a model without one."""
    return config.model.kind if isinstance(config.model, BackboneConfig) else None

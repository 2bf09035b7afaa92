"""An experiment as a YAML file: datasets x models x seeds.

datasets: [data/amazon-scientific]
seeds: [0, 1, 2]
training: {precision: bf16}         # sections for all models
models:
  mult-vae:                         # a recipe
  dmrec-m: {matching: {beta: 0.4}}  # a recipe with other options
  beta-0.1: {recipe: dmrec-m, matching: {beta: 0.1}, seeds: [0]}
  mine: {model: {kind: mine}}       # a whole configuration
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, build_config, read_config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError, did_you_mean
from ..models.vae.model import BackboneConfig
from ..options import LARGEST_SEED, Options, deep_merge
from ..recipes import RECIPES, recipe
from ..runs.provenance import depends_on
from ..runs.resolve import resolve
from ..runs.run import run_folder

SECTIONS = ("language", "matching", "alignment", "phases", "training", "evaluation")
KEYS = ("datasets", "seeds", "models", "against", *SECTIONS)
PLAN = "experiment.yaml"
"""In an experiment's folder: the file that it was run from."""
NOT_IN_DIGEST = ("seed", "device", "tensorboard", "checkpoint_minutes", "log_terms_every")  # of the section training
LATER = {
    "training": ("interactions", "optimiser", "weight_decay", "schedule", "warmup", "clip", "initial"),
    "evaluation": ("test_input", "exclude_seen"),
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
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_plan(path: Path, out: Path, overrides: dict[str, Any] | None = None) -> list[Job]:
    """The runs that an experiment file describes: all models with the first seed, then all with the second, and so on.

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
    jobs = [job for config, seeds in models for job in grid(config, datasets, seeds, out)]
    if len({job.folder for job in jobs}) < len(jobs):
        raise DmrecError(f"{path}: two datasets have one name, or a seed is named twice")
    return sorted(jobs, key=lambda job: job.seed)


def read_models(values: dict[str, Any], path: Path, overrides: dict[str, Any]) -> list[tuple[Config, list[int]]]:
    """The configuration and seeds of each model in an experiment file with these values; ``path`` is for messages."""
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
    against = values.get("against") or []
    if not isinstance(against, list) or not all(name in models for name in against):
        raise DmrecError(f"{path}: against must be a list of names of models in this file, got {against!r}")
    shared = {section: values[section] for section in SECTIONS if values.get(section) is not None}
    found = []
    for name, given in models.items():
        options = dict(given or {})
        seeds = parse_seeds(options.pop("seeds", values.get("seeds", [0])))
        base = options.pop("recipe", name)
        if not isinstance(base, str):
            raise DmrecError(f"{path}, {name}: recipe must be the name of one, got {base!r}")
        whole = base == name not in RECIPES and isinstance(options.get("model"), dict) and "kind" in options["model"]
        own = deep_merge({} if whole else recipe(base), options)
        merged = {**deep_merge(with_shared_sections(own, shared), options), "name": name}
        found.append((build_config(deep_merge(merged, overrides)), seeds))
    return found


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
            resolved = resolve(config, dataset, seed)
            folder = run_folder(out, dataset.name, config.name, seed)
            jobs.append(Job(dataset.name, config.name, seed, resolved, depends_on(resolved, dataset), folder))
    return jobs


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

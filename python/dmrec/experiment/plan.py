"""An experiment as a YAML file: datasets x models x seeds.

datasets: [data/amazon-scientific]
seeds: [0, 1, 2]
training: {precision: bf16}         # sections for all models
models:
  mult-vae:                         # a recipe, as it is
  dmrec-m: {matching: {beta: 0.4}}  # options over it
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
from ..options import deep_merge
from ..recipes import RECIPES, recipe
from ..runs.provenance import depends_on
from ..runs.resolve import resolve
from ..runs.run import run_folder

SECTIONS = ("language", "matching", "training", "evaluation")
KEYS = ("datasets", "seeds", "models", *SECTIONS)


@dataclass(frozen=True)
class Job:
    """One run of the grid."""

    dataset: str
    model: str
    seed: int
    config: Config
    data: dict[str, Any]  # checksums of what it depends on
    folder: Path

    @property
    def digest(self) -> str:
        """Of everything that decides the figures of the model, whatever the seed: another one is another model."""
        training = dict.fromkeys(("seed", "device", "tensorboard", "checkpoint_minutes", "log_terms_every"), True)
        values = self.config.model_dump(mode="json", exclude={"data": True, "training": training})
        values["data"] = self.data
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_plan(path: Path, out: Path) -> list[Job]:
    """All runs that a file asks for."""
    values = read_config(path)
    for key in values:
        if key not in KEYS:
            raise DmrecError(f"{path}: unknown key '{key}'{did_you_mean(str(key), KEYS)}")
    for key in ("datasets", "models"):
        if not values.get(key):
            raise DmrecError(f"{path} names no {key}")
    if not isinstance(values["datasets"], list) or not all(isinstance(each, str) for each in values["datasets"]):
        raise DmrecError(f"{path}: datasets must be a list of folders, got {values['datasets']!r}")
    models = values["models"]
    if isinstance(models, list) and all(isinstance(each, str) for each in models):
        models = dict.fromkeys(models)
    if not isinstance(models, dict) or not all(
        isinstance(name, str) and isinstance(over, dict | None) for name, over in models.items()
    ):
        raise DmrecError(f"{path}: models must be names, or names with options, got {values['models']!r}")
    datasets = [open_dataset(Path(folder)) for folder in values["datasets"]]
    common = {section: values[section] for section in SECTIONS if values.get(section) is not None}
    jobs = []
    for name, over in models.items():
        options = dict(over or {})
        seeds = seeds_of(options.pop("seeds", values.get("seeds", [0])))
        base = options.pop("recipe", name)
        if not isinstance(base, str):
            raise DmrecError(f"{path}, {name}: recipe must be the name of one, got {base!r}")
        whole = base == name not in RECIPES and isinstance(options.get("model"), dict) and "kind" in options["model"]
        mine = deep_merge({} if whole else recipe(base), options)
        config = build_config({**deep_merge(with_common(mine, common), options), "name": name})
        jobs += grid(config, datasets, seeds, out)
    if len({job.folder for job in jobs}) < len(jobs):
        raise DmrecError(f"{path}: two datasets have one name, or a seed is named twice")
    return sorted(jobs, key=lambda job: job.seed)  # all models once before any a second time


def with_common(values: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the sections for all models; language and matching where the model has them."""
    spared = {"language", "matching"} - values.keys()
    return deep_merge(values, {section: over for section, over in common.items() if section not in spared})


def grid(config: Config, datasets: Sequence[Dataset], seeds: Sequence[int], out: Path) -> list[Job]:
    """The runs of one model; every user's test values are kept, for paired tests."""
    kept = config.evaluation.model_copy(update={"per_user": True})
    config = config.model_copy(update={"evaluation": kept})
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


def seeds_of(given: Any) -> list[int]:
    """A list of seeds, or how many of them, from 0."""
    seeds = list(range(given)) if isinstance(given, int) else given
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise DmrecError(f"seeds must be whole numbers, like [0, 1, 2], or how many, got {given!r}")
    return seeds


def backbone_of(config: Config) -> str | None:
    """The kind of the backbone, if the model has one."""
    return config.model.kind if isinstance(config.model, BackboneConfig) else None

"""From a configuration and a dataset to a model and its loss: where the parts are joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmrec_ext import Csr

from ..config import Config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..eval.ranking import Ranker
from ..matching import Matching, Objective, Prior
from ..models.baselines import Ease, EaseConfig, Popularity, PopularityConfig
from ..models.layers import initialise
from ..models.lightgcn import LightGcnConfig
from ..models.meta_network import MetaNetwork
from ..models.recommender import Recommender
from ..models.registry import BackboneConfig, TrainingData
from .board import check_board
from .checkpoint import NO_STATE, State, part_of
from .run import Run
from .tasks import GenerativeTask, PairwiseTask, Task


def resolve(config: Config, dataset: Dataset, seed: int) -> Config:
    """The configuration with everything filled in that the dataset and the seed decide; what it needs is there."""
    if config.training.board:
        check_board()
    language = config.language
    if language is not None:
        language = language.model_copy(update={"vectors": dataset.vectors(language.vectors).name})
    for name, held_out in (("validation", dataset.valid), ("test", dataset.test)):
        if held_out.nnz == 0:
            raise DmrecError(f"{dataset.folder} has no {name} interactions to measure with; split it again")
    known = dataset.vector_names
    only = known[0] if len(known) == 1 else None
    model = config.model.resolved(language.vectors if language else only)
    if model.lightgcn_run is not None:
        model = model.model_copy(update={"lightgcn": checked_lightgcn(model.lightgcn_run, dataset)})
    training = config.training.model_copy(update={"seed": seed})
    update = {"data": dataset.folder, "model": model, "language": language, "training": training}
    return config.model_copy(update=update)


def about_data(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint keeps of the data it was trained on."""
    sizes = {"n_users": dataset.n_users, "n_items": dataset.n_items}
    return {"dataset": dataset.name, **sizes, "fingerprint": fingerprint(config, dataset)}


def fingerprint(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Checksums of all of a dataset that a run depends on."""
    of_language = config.language.vectors if config.language else None
    return {**dataset.fingerprint(of_language), **dataset.fingerprint(config.model.item_vectors)}


def depends_on(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Checksums of all that decides how training goes, beside the configuration."""
    run = config.model.lightgcn_run
    of_run = {} if run is None else {str(run): Run.open(run).load()[1]["sha256"]}
    return {**fingerprint(config, dataset), **of_run}


def checked_lightgcn(folder: Path, dataset: Dataset) -> Path:
    """A run of LightGCN on ``dataset``, the first of several seeds; that of another split knows what is held out."""
    run = Run.open(folder)
    if not isinstance(run.config.model, LightGcnConfig):
        raise DmrecError(f"model.lightgcn: {folder} is no run of lightgcn but of {run.config.model.kind}")
    check_data(run.folder, run.load()[1], run.config, dataset)
    return run.folder


def check_data(folder: Path, about: dict[str, Any], config: Config, dataset: Dataset) -> None:
    """``dataset`` is what a checkpoint in ``folder`` was trained on."""
    here = about_data(config, dataset)
    if (about["n_users"], about["n_items"]) != (here["n_users"], here["n_items"]):
        raise DmrecError(
            f"{folder} was trained on {about['n_users']} users and {about['n_items']} items, "
            f"but {dataset.folder} has {dataset.n_users} and {dataset.n_items}"
        )
    if differing := [name for name, value in about["fingerprint"].items() if here["fingerprint"].get(name) != value]:
        raise DmrecError(
            f"{folder} was trained on another version of {dataset.folder}: {', '.join(differing)} changed since "
            "(another split would leak test interactions, and other vectors mean nothing to it); "
            "train again, or give the old dataset with --data"
        )


def training_data(config: Config, dataset: Dataset, state: State = NO_STATE) -> TrainingData:
    """What a model is built from."""
    name = config.model.item_vectors
    vectors = dataset.vectors(name).items if name else None
    return TrainingData(Csr.from_scipy(dataset.train), vectors, part_of(state, "backbone."))


def build_task(config: Config, dataset: Dataset, state: State = NO_STATE) -> Task:
    """The model and how it learns. ``state``: what its module will load, where it is not new."""
    if isinstance(config.model, LightGcnConfig):
        return PairwiseTask(config.model.build(training_data(config, dataset)))
    recommender, train = build_recommender(config, dataset, state), Csr.from_scipy(dataset.train)
    return GenerativeTask(recommender, build_matching(config), train, config.training.annealing)


def build_recommender(config: Config, dataset: Dataset, state: State = NO_STATE) -> Recommender:
    """Backbone and, with language, meta-network; initial weights follow torch's global seed."""
    if not isinstance(config.model, BackboneConfig):
        raise DmrecError(f"model '{config.model.kind}' is no generative recommender")
    backbone = config.model.build(training_data(config, dataset, state))
    if config.language is None:
        return Recommender(backbone, None, "collaborative", config.training.precision)
    vectors = dataset.vectors(config.language.vectors)
    meta_network = MetaNetwork(
        vectors.items,
        vectors.users,
        hidden=config.language.hidden,
        latent=backbone.latent,
        aggregate=config.language.aggregate,
    )
    initialise(meta_network, config.language.initialisation)
    return Recommender(backbone, meta_network, config.language.fusion, config.training.precision)


def build_matching(config: Config) -> Matching:
    """The loss beside the reconstruction."""
    if config.matching is None or config.language is None or config.matching.strategy == "add":
        return Prior()
    options = config.matching
    return Objective(
        strategy=options.strategy,
        beta=options.beta,
        beta_concentration=options.beta_concentration,
        alpha=options.alpha,
        interpolation=options.interpolation,
        squared=options.squared,
        eps=options.eps,
        fusion=config.language.fusion,
    )


def load_run(folder: Path, data: Path | None = None) -> tuple[Run, Dataset, Ranker]:
    """A finished run with its dataset (or the one at ``data``) and the ranker from its checkpoint."""
    run = Run.open(folder)
    config = run.config
    location = data or config.data
    assert location is not None, "a run's configuration names its dataset"
    dataset = open_dataset(location)
    state, about = run.load()
    check_data(run.folder, about, config, dataset)
    match config.model:
        case PopularityConfig():
            popularity = Popularity(dataset.train)
            popularity.scores = state["scores"]
            return run, dataset, popularity
        case EaseConfig():
            return run, dataset, Ease(state["weights"])
    task = build_task(config, dataset, state)
    task.module.load_state_dict(state)
    task.module.eval()
    return run, dataset, task.ranker

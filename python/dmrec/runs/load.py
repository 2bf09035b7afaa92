"""From a run folder to its model, and from a configuration to the data that a model is built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..build import build_model
from ..config import Config, ShardingConfig
from ..data.dataset import SPLITS, Dataset, open_dataset
from ..data.interactions import InteractionParts
from ..errors import DmrecError
from ..eval.ranking import union
from ..models.base import (
    Histories,
    ItemCodes,
    ItemTokenizer,
    Member,
    Model,
    PosteriorSource,
    TrainingData,
    WithItemCodes,
)
from ..models.carry import carry
from ..sharding.items import ItemShards
from ..sharding.ranks import ALONE, Ranks
from ..tokenizers.tokenize import restored_tokenizer
from .provenance import check_data, item_embeddings_of, item_text_of, member_folders, posterior_of, user_text_of
from .run import Run
from .shards import cut_otherwise

CPU = torch.device("cpu")


class LoadedRun(NamedTuple):
    """A run, the dataset that it was trained on, its best model in evaluation mode, and the data of the model."""

    run: Run
    dataset: Dataset
    model: Model
    data: TrainingData


def load_run(
    folder: Path,
    data: Path | None = None,
    device: torch.device = CPU,
    *,
    unfinished: bool = False,
    ranks: Ranks = ALONE,
) -> LoadedRun:
    """Opens a finished run, or with ``unfinished`` any, with its dataset or the one at ``data``.

    ``ranks``: the processes that share its items, which all call this.

    Raises:
        DmrecError: the folder holds no model, the run is not finished, or the dataset is another.
    """
    run = Run.open(folder)
    return load_model(run, open_dataset(run.data_folder(data)), device, unfinished=unfinished, ranks=ranks)


def held_out_split(config: Config, dataset: Dataset, split: str) -> Csr:
    """(M, N): the held-out interactions of ``split`` ("valid" or "test") that a run may be measured with.

    Raises:
        DmrecError: there are none, or the run has learned from them.
    """
    if config.training.interactions == "all":
        raise DmrecError(
            f"{config.name} has learned from all interactions, held-out ones included: nothing is left to measure it "
            "with. Evaluate the run that it was made from"
        )
    if dataset.manifest["interactions"][split] == 0:
        raise DmrecError(f"{dataset.folder} has no {split} interactions to measure with")
    return dataset.split(split) if config.sharding.shards == 1 else rows_of(dataset, split)


def load_model(
    run: Run, dataset: Dataset, device: torch.device = CPU, *, unfinished: bool = False, ranks: Ranks = ALONE
) -> LoadedRun:
    """`load_run` for a dataset that is open already."""
    state_of_run, remark = run.state()
    if state_of_run != "finished" and not unfinished:
        raise DmrecError(
            f"{run.folder} is not finished ({state_of_run}, {remark} of {run.config.epochs}): continue it "
            f"with dmrec resume {run.folder}, or use its best state so far: --unfinished (unfinished=True in Python)"
        )
    config = run.config
    shards = shards_of(config, dataset.n_items, ranks)
    before = run.load_metadata().get("shards", 1)
    if before != config.sharding.shards:
        raise cut_otherwise(run.folder, before, config.sharding.shards)
    state, metadata = replace(run, items=shards).load()
    check_data(run.folder, metadata, config, dataset)
    data = training_data(config, dataset, state, shards)
    if shards is None:
        model = build_model(config, data)
        model.load_state_dict(state)
    else:  # the tables of a large catalogue stay mapped from disk
        with torch.device("meta"):
            model = build_model(config, data)
        model.load_state_dict(state, assign=True)
    return LoadedRun(run, dataset, model.to(device).eval(), data)


def carried_model(config: Config, dataset: Dataset, state: Mapping[str, Tensor]) -> tuple[Model, TrainingData]:
    """A model in evaluation mode on other data than that of its ``state``, whose rows are those of ``dataset`` already
    (see `models.carry`), and its data.
    """
    data = training_data(config, dataset, state)
    with torch.random.fork_rng(devices=[]):  # initial weights, which are replaced
        model = build_model(config, data)
    carry(model, state)
    return model.eval(), data


def check_count(ranks: int, sharding: ShardingConfig) -> None:
    """Refuses a number of processes that cannot share the items.

    Raises:
        DmrecError: they cannot.
    """
    if ranks > sharding.shards or (sharding.sums == "exact" and ranks & (ranks - 1)):
        hint = "" if ranks > sharding.shards else "; or --set sharding.sums=fast"
        raise DmrecError(
            f"--ranks must be a power of two, at most sharding.shards ({sharding.shards}), got {ranks}{hint}"
        )


def shards_of(config: Config, n_items: int, ranks: Ranks = ALONE) -> ItemShards | None:
    """How the items of a run are cut; None: not at all.

    Raises:
        DmrecError: so many processes cannot share them.
    """
    sharding = config.sharding
    if sharding.shards == 1:
        return None
    check_count(ranks.size, sharding)
    return ItemShards(n_items, sharding.shards, replace(ranks, sums=sharding.sums))


def training_data(
    config: Config,
    dataset: Dataset,
    state: Mapping[str, Tensor] | None = None,
    shards: ItemShards | None = None,
) -> TrainingData:
    """What the model of a resolved configuration is built from.

    Args:
        config: the configuration.
        dataset: the dataset.
        state: what a saved model will load.
        shards: how the items are cut; default: as the configuration says, all of them in this process.
    """
    shards = shards or shards_of(config, dataset.n_items)
    items = users = None
    if (name := user_text_of(config)) is not None:
        vectors = dataset.vectors(name)
        items, users = vectors.items, vectors.users
    splits = splits_learned(config)
    histories = histories_of(dataset, *splits) if config.model.reads_sequences else None
    embeddings = None if state is not None else _item_embeddings(config, dataset)
    codes = tokenizer = None
    if isinstance(config.model, WithItemCodes):
        found = dataset.codes(config.model.codes)
        codes = ItemCodes(found.codes, found.size)
        if config.alignment is not None:
            restored = restored_tokenizer(dataset, found.name)
            tokenizer = ItemTokenizer(restored.fitted.tokenizer, restored.vectors, restored.collisions)
    posterior = None
    if (folder := posterior_of(config)) is not None:
        loaded = load_model(Run.open(folder), dataset)
        posterior = PosteriorSource(loaded.model, loaded.data.item_text_vectors)
    loaded_runs = (load_model(Run.open(folder), dataset) for folder in member_folders(config))
    members = tuple(Member(loaded.run.config.name, loaded.model) for loaded in loaded_runs)
    name = item_text_of(config)
    return TrainingData(
        interactions_of(dataset, *splits) if shards is None else rows_of(dataset, *splits),
        items,
        users,
        histories,
        embeddings,
        None if name is None else dataset.vectors(name).items,
        codes,
        tokenizer,
        posterior,
        members,
        state,
        shards,
    )


def test_data(config: Config, dataset: Dataset, data: TrainingData) -> TrainingData:
    """``data`` as the model reads it when it is tested: with the validation interactions, where the options say so."""
    if config.evaluation.test_input == "train" or config.training.interactions == "all":
        return data
    splits = ("train", "valid")
    histories = None if data.histories is None else histories_of(dataset, *splits)
    read = interactions_of if data.shards is None else rows_of
    return data._replace(interactions=read(dataset, *splits), histories=histories)


def test_exclusions(config: Config, dataset: Dataset) -> Csr | None:
    """(M, N): items that are not ranked when a model is tested, besides those that it reads; None: there are none."""
    if not config.evaluation.exclude_validation:
        return None
    return dataset.split("valid") if config.sharding.shards == 1 else rows_of(dataset, "valid")


def splits_learned(config: Config) -> tuple[str, ...]:
    """The splits that a model learns from."""
    return SPLITS if config.training.interactions == "all" else SPLITS[:1]


def interactions_of(dataset: Dataset, *splits: str) -> Csr:
    """(M, N): the interactions of these splits together."""
    if len(splits) == 1:
        return dataset.split(splits[0])
    together = dataset.matrix(splits[0])
    for split in splits[1:]:
        together = together + dataset.matrix(split)
    return Csr.from_scipy(together)._replace(values=None)


def rows_of(dataset: Dataset, *splits: str) -> Csr:
    """(M, N): the interactions of these splits together, for models whose items are cut.

    They read rows alone, which come from disk where the dataset is of format 2: what is returned need not be a matrix
    in memory.
    """
    if dataset.manifest["format"] == 1:
        return interactions_of(dataset, *splits)
    parts = [cast(InteractionParts, dataset.interactions(split)) for split in splits]
    return cast(Csr, parts[0] if len(parts) == 1 else _Together(parts))


class _Together:
    """Rows of several interactions of the same users and items, none of which they share."""

    def __init__(self, parts: Sequence[InteractionParts]) -> None:
        self._parts = parts
        self.n_rows, self.n_cols, self.nnz = parts[0].n_rows, parts[0].n_cols, sum(part.nnz for part in parts)

    @cached_property
    def crow(self) -> Tensor:
        return torch.stack([part.crow for part in self._parts]).sum(0)

    def rows(self, index: Tensor) -> Csr:
        return reduce(union, (part.rows(index) for part in self._parts))

    def item_counts(self, first: int = 0, end: int | None = None) -> Tensor:
        return torch.stack([part.item_counts(first, end) for part in self._parts]).sum(0)


def histories_of(dataset: Dataset, *splits: str) -> Histories:
    """The interactions of these splits, by default of training alone, of each user in their order."""
    sequence = dataset.sequence(*(splits or SPLITS[:1]))
    return Histories(torch.from_numpy(sequence.indptr), torch.from_numpy(sequence.items).long())


def _item_embeddings(config: Config, dataset: Dataset) -> np.ndarray | None:
    """(N, any width): text vectors, or the item vectors of another run's model."""
    name, folder = item_embeddings_of(config, dataset)
    if name is not None:
        return dataset.vectors(name).items
    if folder is not None:
        return load_model(Run.open(folder), dataset).model.item_vectors().cpu().numpy()
    return None

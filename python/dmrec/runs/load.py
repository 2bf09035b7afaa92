"""From a run folder to its model, and from a configuration to the data that a model is built from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..build import build_model
from ..config import Config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..models.base import Histories, Model, TrainingData
from .provenance import check_data, item_embeddings_of
from .run import Run

CPU = torch.device("cpu")


class LoadedRun(NamedTuple):
    """A run, the dataset that it was trained on, its best model in evaluation mode, and the data of the model."""

    run: Run
    dataset: Dataset
    model: Model
    data: TrainingData


def load_run(
    folder: Path, data: Path | None = None, device: torch.device = CPU, *, unfinished: bool = False
) -> LoadedRun:
    """Opens a finished run, or with ``unfinished`` any, with its dataset or the one at ``data``.

    Raises:
        DmrecError: the folder holds no model, the run is not finished, or the dataset is another.
    """
    run = Run.open(folder)
    return load_model(run, open_dataset(run.data_folder(data)), device, unfinished=unfinished)


def load_model(run: Run, dataset: Dataset, device: torch.device = CPU, *, unfinished: bool = False) -> LoadedRun:
    """`load_run` for a dataset that is open already."""
    state_of_run, remark = run.state()
    if state_of_run != "finished" and not unfinished:
        raise DmrecError(
            f"{run.folder} is not finished ({state_of_run}, {remark} of {run.config.training.epochs}): continue it "
            f"with dmrec resume {run.folder}, or use its best state so far: --unfinished (unfinished=True in Python)"
        )
    state, metadata = run.load()
    config = run.config
    check_data(run.folder, metadata, config, dataset)
    data = training_data(config, dataset, state)
    model = build_model(config, data)
    model.load_state_dict(state)
    return LoadedRun(run, dataset, model.to(device).eval(), data)


def training_data(config: Config, dataset: Dataset, state: Mapping[str, Tensor] | None = None) -> TrainingData:
    """What the model of a resolved configuration is built from. ``state``: what a saved model will load."""
    items = users = None
    if config.language is not None:
        vectors = dataset.vectors(config.language.vectors)
        items, users = vectors.items, vectors.users
    histories = histories_of(dataset) if config.model.reads_sequences else None
    embeddings = None if state is not None else _item_embeddings(config, dataset)
    return TrainingData(dataset.split("train"), items, users, histories, embeddings, state)


def histories_of(dataset: Dataset) -> Histories:
    """The training interactions of each user in their order; nothing that is held out is among them."""
    training = dataset.sequence("train")
    return Histories(torch.from_numpy(training.indptr), torch.from_numpy(training.items).long())


def _item_embeddings(config: Config, dataset: Dataset) -> np.ndarray | None:
    """(N, any width): text vectors, or the item vectors of another run's model."""
    name, folder = item_embeddings_of(config, dataset)
    if name is not None:
        return dataset.vectors(name).items
    if folder is not None:
        return load_model(Run.open(folder), dataset).model.item_vectors().cpu().numpy()
    return None

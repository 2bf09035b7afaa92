"""Weights that a training starts from: those of a run on an earlier version of the data, carried over by ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..config import Config
from ..data.dataset import SPLITS, Dataset
from ..errors import DmrecError
from ..models.carry import rows_by_item
from ..sharding.items import whole_state
from .load import load_run, splits_learned
from .provenance import item_text_of

TOLERANCE = 1e-2  # of text vectors of one item in two datasets, which may be float16


def initial_state(config: Config, dataset: Dataset) -> dict[str, Tensor] | None:
    """The state of the run that ``training.initial`` names, on the items of ``dataset``; None where none is named.

    Rows of items go by their ids; those of items that are new are zeros.

    Raises:
        DmrecError: the run cannot be carried over, its text vectors are of another space, or held-out interactions of
            ``dataset`` are among those that it has learned.
    """
    if config.training.initial is None:
        return None
    loaded = load_run(Path(config.training.initial))
    before = loaded.dataset
    if not loaded.model.item_state:
        raise DmrecError(
            f"training.initial: {type(loaded.model).__name__} cannot be carried over to other data; autoencoders can"
        )
    kinds = config.model.kind, loaded.run.config.model.kind
    if kinds[0] != kinds[1]:
        raise DmrecError(f"training.initial: the model '{kinds[0]}' cannot start from weights of '{kinds[1]}'")
    columns = _places([item.id for item in before.items], dataset.item_columns)
    if not (columns >= 0).any():
        raise DmrecError(f"training.initial: {before.folder} and {dataset.folder} have no item in common")
    _check_vectors(config, loaded.run.config, before, dataset, columns)
    if config.training.interactions == "train":
        rows = _places([user.id for user in before.users], dataset.user_rows)
        _check_held_out(before, splits_learned(loaded.run.config), dataset, rows, columns)
    state, shards = loaded.model.state_dict(), loaded.data.shards
    if shards is not None:
        state = whole_state(state, shards.n_shards)
    return rows_by_item(state, loaded.model.item_state, torch.from_numpy(columns), dataset.n_items)


def _places(ids: list[str], places: dict[str, int]) -> np.ndarray:
    """(n,) int64: where each is now, -1 where it is gone."""
    return np.array([places.get(each, -1) for each in ids], dtype=np.int64)


def _check_vectors(config: Config, earlier: Config, before: Dataset, now: Dataset, columns: np.ndarray) -> None:
    """Refuses text vectors of another space: those of the items that both datasets have must agree."""
    pairs = [(item_text_of(earlier), item_text_of(config))]
    if config.language is not None and earlier.language is not None:
        pairs.append((earlier.language.vectors, config.language.vectors))
    stays = np.flatnonzero(columns >= 0)
    for old, new in pairs:
        if old is None or new is None:
            continue
        a, b = before.vectors(old).items[stays], now.vectors(new).items[columns[stays]]
        near = a.shape == b.shape and np.abs(a.astype(np.float32) - b.astype(np.float32)).max(axis=1) < TOLERANCE
        if not np.mean(near) > 0.5:  # single texts may have been edited
            raise DmrecError(
                f"training.initial: the vectors '{new}' of {now.folder} are of another space than '{old}' of "
                f"{before.folder}; make them with the same encoder: dmrec embed {now.folder} --encoder-of "
                f"{before.folder}"
            )


def _check_held_out(
    before: Dataset, learned: tuple[str, ...], now: Dataset, rows: np.ndarray, columns: np.ndarray
) -> None:
    """Refuses to measure with interactions that the earlier run has learned from."""
    known = sum((before.matrix(split) for split in learned), sp.csr_matrix((before.n_users, before.n_items))).tocoo()
    row, column = rows[known.row], columns[known.col]
    both = (row >= 0) & (column >= 0)
    shape = (now.n_users, now.n_items)
    there = sp.csr_matrix((np.ones(int(both.sum()), dtype=np.float32), (row[both], column[both])), shape=shape)
    for split in SPLITS[1:]:
        count = int(there.multiply(now.matrix(split)).nnz)
        if count:
            raise DmrecError(
                f"training.initial: {count} of the {now.matrix(split).nnz} {split} interactions of {now.folder} were "
                "learned by that run, and figures would be too good. Split by time (dmrec data import --split time), "
                "or train on everything for use: dmrec train --final"
            )

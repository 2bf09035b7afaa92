"""Trained models with items that were not in training."""

from __future__ import annotations

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..data.grown import with_new_items
from ..data.sources.new_items import NewItems
from ..errors import DmrecError
from ..language.encoders import TextEncoder
from ..language.new_items import vectors_of_new_items
from ..models.base import Model, TrainingData
from ..models.carry import rows_by_item
from ..models.vae.model import Vae
from ..runs.load import carried_model
from ..runs.provenance import item_text_of


def grow(
    model: Model,
    config: Config | None,
    dataset: Dataset,
    new: NewItems,
    encoder: TextEncoder | None,
    key_variable: str | None,
    loaded: dict[str, TextEncoder],
) -> tuple[Model, TrainingData, Dataset]:
    """The model, its data and its dataset with new items behind those that there are.

    A new item is known by its text alone: rows of its own are zeros. ``encoder``, ``key_variable``, ``loaded``: see
    `vectors_of_new_items`.

    Raises:
        DmrecError: the model does not know items by their texts, or a text cannot be encoded.
    """
    if config is None or not isinstance(model, Vae) or not model.knows_new_items:
        name = type(model).__name__ if config is None else config.name
        raise DmrecError(
            f"{name} has a row for each item that it was trained on, and knows no others; autoencoders that read the "
            "texts of items do: dmrec train dmrec-m --set model.item_text={}"
        )
    named = {item_text_of(config), None if config.language is None else config.language.vectors}
    vectors = {
        name: vectors_of_new_items(dataset, name, new.items, encoder, key_variable, loaded) for name in named if name
    }
    grown = with_new_items(dataset, [item.entity for item in new.items], vectors)
    state = rows_by_item(model.state_dict(), model.item_state, torch.arange(dataset.n_items), grown.n_items)
    larger, data = carried_model(config, grown, state)
    return larger.to(model.device), data, grown

"""From the state of a model to one on other items: rows go by item, and those of new items begin at zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import DmrecError
from .base import Model


def rows_by_item(state: Mapping[str, Tensor], names: Sequence[str], columns: Tensor, n_items: int) -> dict[str, Tensor]:
    """``state`` with the entries ``names`` on ``n_items`` items: the row of old item i goes to ``columns[i]``.

    ``columns`` (N,) int64, -1 for items that are gone. The rows of other items are zeros, and -1 in integers.
    """
    found = dict(state)
    stays = columns >= 0
    for name in names:
        rows = state[name]
        if len(rows) != len(columns):
            raise DmrecError(f"{name} has {len(rows)} rows, and there were {len(columns)} items")
        filled = rows.new_full((n_items, *rows.shape[1:]), 0 if rows.is_floating_point() else -1)
        filled[columns[stays]] = rows[stays]
        found[name] = filled
    return found


def carry(model: Model, state: Mapping[str, Tensor]) -> None:
    """Loads the parameters of ``state``; buffers stay as the model was built, since they follow from its data.

    Raises:
        DmrecError: a parameter is missing or has another shape: the options of the models differ.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in state or state[name].shape != parameter.shape:
                found = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
                raise DmrecError(
                    f"the weights to start from do not fit: {name} must be {tuple(parameter.shape)} and is {found}; "
                    "train with the options of the model that they are from"
                )
            parameter.copy_(state[name])

"""Layers over sparse input, dropout of interactions, initialisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import Csr

from ...sharding.items import ItemShards, shard_of, without_shard

Initialisation = Annotated[
    Literal["torch", "xavier"],
    Field(description="torch's defaults, as in the authors' code, or Xavier, as in the paper"),
]


class SparseLinear(nn.Module):
    """A linear layer whose (B, N) input is sparse; the weight lies (N, H), one row per item.

    ``items``: their number, or how they are cut into shards.
    """

    weight: Tensor  # where the items are not cut
    bias: Tensor

    def __init__(self, items: ItemShards | int, n_out: int) -> None:
        super().__init__()
        self.items = items = ItemShards(items) if isinstance(items, int) else items
        bound = 1 / math.sqrt(max(items.n_items, 1))  # torch's default for nn.Linear(n_items, n_out)
        items.add_parameter(self, "weight", n_out, lambda weight: nn.init.uniform_(weight, -bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))

    def forward(self, x: Csr) -> Tensor:
        """(B, H)."""
        return self.of_parts(self.items.split(x))

    def of_parts(self, parts: Sequence[Csr]) -> Tensor:
        """(B, H), from the columns of x that belong to each shard of this rank."""
        return self.items.aggregate(parts, self.items.tensors(self, "weight"), bias=self.bias)


def drop_interactions(x: Csr, probability: float) -> Csr:
    """Inverted dropout on the stored entries: what an elementwise dropout of the dense matrix does to them."""
    if probability == 0:
        return x
    scale = 1 / (1 - probability)
    kept = torch.empty(x.nnz, device=x.col.device).bernoulli_(1 - probability) * scale
    return x._replace(values=kept if x.values is None else kept * x.values)


def without_rows(x: Csr, rows: Tensor) -> Csr:
    """``x`` (B, N) on the CPU without the entries of the rows where ``rows`` (B,) bool is true."""
    kept = ~rows[x.row_of_entry()]
    count = x.crow.diff().masked_fill(rows, 0)
    crow = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return Csr(crow, x.col[kept], None if x.values is None else x.values[kept], x.n_cols)


def unit_rows(x: Csr) -> Csr:
    """Each row divided by its Euclidean norm."""
    values = torch.ones(x.nnz, device=x.col.device) if x.values is None else x.values
    row = x.row_of_entry()
    squared = torch.zeros(x.n_rows, device=values.device).index_add(0, row, values.square())
    return x._replace(values=values * squared.clamp_min(1e-12).rsqrt()[row])


def initialise(module: nn.Module, scheme: str, items: ItemShards | None = None) -> None:
    """``"torch"`` leaves torch's defaults (the authors' code); ``"xavier"``: uniform, biases 0 (the paper).

    ``items``: those of the module's tables, if it has any.
    """
    if scheme == "torch":
        return
    for name, parameter in module.named_parameters():
        if without_shard(name).endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2 and (items is None or shard_of(name) is None):
            nn.init.xavier_uniform_(parameter)
        elif parameter.dim() == 2 and items is not None:
            bound = math.sqrt(6 / (items.n_items + parameter.shape[1]))
            items.fill(parameter, partial(nn.init.uniform_, a=-bound, b=bound), "xavier", name)

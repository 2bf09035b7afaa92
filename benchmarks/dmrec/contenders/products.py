"""The floor: nothing but the matrix products of a Mult-VAE whose input is sparse, into memory that is there already.

Of an epoch: forward and both gradients of every layer but the first, whose input is sparse and costs no product. Of a
ranking: the forward.
"""

from __future__ import annotations

import argparse
import importlib.metadata

import common
import numpy as np
import torch
from torch import Tensor

HIDDEN, LATENT, BATCH = 600, 200, 500


class Layer:
    """A linear layer of one batch."""

    def __init__(self, rows: int, inputs: int, outputs: int) -> None:
        sizes = (rows, inputs), (outputs, inputs), (rows, outputs)
        self.x, self.weight, self.grad = (torch.ones(size) for size in sizes)
        self.results = [torch.empty(size) for size in ((rows, outputs), (rows, inputs), (outputs, inputs))]

    def forward(self) -> Tensor:
        """(rows, outputs)."""
        return torch.mm(self.x, self.weight.T, out=self.results[0])

    def backward(self) -> None:
        """Of inputs and weights."""
        torch.mm(self.grad, self.weight, out=self.results[1])
        torch.mm(self.grad.T, self.x, out=self.results[2])


class Products:
    """Batches of 500 users and what is left over."""

    version = importlib.metadata.version("torch")

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.set_num_threads(chosen.threads)
        train, valid = common.load(chosen.data)
        n_users, n_items = train.shape
        ranked = int(np.count_nonzero(np.diff(valid.indptr)))
        widths = ((HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, n_items))
        of_size = {rows: [Layer(rows, *width) for width in widths] for rows in {*sizes(n_users), *sizes(ranked)}}
        self.batches, self.ranked = ([of_size[rows] for rows in sizes(n)] for n in (n_users, ranked))

    def epoch(self) -> None:
        """All products."""
        for layers in self.batches:
            for layer in layers:
                layer.forward()
                layer.backward()

    def evaluate(self) -> float:
        """Those forward; no score."""
        for layers in self.ranked:
            for layer in layers:
                layer.forward()
        return 0.0


def sizes(n: int) -> list[int]:
    """Of the batches."""
    return [min(BATCH, n - start) for start in range(0, n, BATCH)]


if __name__ == "__main__":
    common.run(Products)

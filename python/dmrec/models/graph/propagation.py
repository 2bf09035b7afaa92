"""The graph of users and items, and vectors smoothed over it.

With A = D^{-1/2} [0 X; X^T 0] D^{-1/2} over M users, then N items, and E_0 the vectors of these nodes, the smoothed
ones are sums of powers, computed by Horner's scheme: E_0 + A (E_0 + A (E_0 + ..)).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dmrec_ext import Csr, csr_aggregate

EdgeDropout = Literal["directed", "symmetric"]


class Adjacency(NamedTuple):
    """A matrix (M + N, M + N) and its transpose."""

    matrix: Csr
    transpose: Csr


class Graph(nn.Module):
    """The normalised adjacency matrix of training interactions: buffers that are not part of checkpoints."""

    crow: Tensor
    col: Tensor
    values: Tensor
    mirror: Tensor  # (2 nnz,) int64: for the entry (a, b), the place of (b, a)

    def __init__(self, interactions: Csr) -> None:
        super().__init__()
        self.n_users, self.n_nodes = interactions.n_rows, interactions.n_rows + interactions.n_cols
        graph = normalized_adjacency(interactions)
        key = graph.row_of_entry() * self.n_nodes + graph.col
        mirror = torch.searchsorted(key, graph.col * self.n_nodes + graph.row_of_entry())
        parts = {"crow": graph.crow, "col": graph.col, "values": graph.values, "mirror": mirror}
        for name, tensor in parts.items():
            self.register_buffer(name, tensor, persistent=False)

    def whole(self) -> Adjacency:
        """A, which is symmetric."""
        matrix = Csr(self.crow, self.col, self.values, self.n_nodes)
        return Adjacency(matrix, matrix)

    def dropped(self, keep: float, kind: EdgeDropout) -> Adjacency:
        """A with a random share ``keep`` of its entries, the others 0; values are not rescaled.

        ``"directed"`` draws for each entry, so that (a, b) may stay and (b, a) go, and the matrix is not symmetric;
        ``"symmetric"`` draws for each interaction.
        """
        if keep == 1:
            return self.whole()
        drawn = torch.empty_like(self.values).bernoulli_(keep)
        if kind == "symmetric":
            of_users = torch.arange(len(drawn), device=drawn.device) < self.crow[self.n_users]
            drawn = torch.where(of_users, drawn, drawn[self.mirror])
        values = self.values * drawn
        matrix = Csr(self.crow, self.col, values, self.n_nodes)
        return Adjacency(matrix, matrix if kind == "symmetric" else matrix._replace(values=values[self.mirror]))


def smooth(graph: Adjacency, nodes: Tensor, layers: int) -> Tensor:
    """(M + N, d): nodes + A nodes + .. + A^layers nodes."""
    total = nodes
    for _ in range(layers):
        total = csr_aggregate(graph.matrix, total, nodes, transpose=graph.transpose)
    return total


def normalized_adjacency(interactions: Csr) -> Csr:
    """(M + N, M + N): D^{-1/2} [0 X; X^T 0] D^{-1/2} of users, then items."""
    users, back = interactions, interactions.transpose()
    degree = torch.cat([users.crow.diff(), back.crow.diff()]).clamp_min(1).rsqrt()
    crow = torch.cat([users.crow, users.crow[-1] + back.crow[1:]])
    col = torch.cat([users.col + interactions.n_rows, back.col])
    graph = Csr(crow, col, None, interactions.n_rows + interactions.n_cols)
    return graph._replace(values=degree[graph.row_of_entry()] * degree[col])

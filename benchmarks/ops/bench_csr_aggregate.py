"""Sparse interactions times a dense matrix, compared with torch's embedding_bag and CSR product, and scipy's.

Floor: reading as many bytes as the gathered rows hold, once, in order (`torch.sum`); forward and gradient together also
write the gradient into a buffer that is there already (`fill_`). Rows that several users share may come from a cache,
so where there are many of them the operator can be faster than its floor.
"""

import functools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn.functional import embedding_bag

from benchmarks.race import race
from benchmarks.sizes import SPARSE
from dmrec_ext import Csr, csr_aggregate

WORKLOADS = SPARSE
CONTENDERS = ["ours", "embedding_bag", "torch CSR", "torch CSR, out=", "scipy", "floor"]
GRADIENT_CONTENDERS = ["ours", "embedding_bag", "torch CSR, out=", "floor"]


class _Workload:
    """One batch of users."""

    def __init__(self, n_rows, per_row, width, n_items):
        generator = np.random.default_rng(0)
        col = [np.sort(generator.choice(n_items, per_row, replace=False)) for _ in range(n_rows)]
        self.crow, self.col = torch.arange(0, n_rows * per_row + 1, per_row), torch.from_numpy(np.concatenate(col))
        self.values = torch.rand(len(self.col))
        self.x = Csr(self.crow, self.col, self.values, n_items)
        self.dense, self.grad = torch.randn(n_items, width), torch.randn(n_rows, width)
        self.out = torch.empty(n_rows, width)
        self.csr = torch.sparse_csr_tensor(self.crow, self.col, self.values, (n_rows, n_items))
        arrays = (self.values.numpy(), self.col.numpy(), self.crow.numpy())
        self.scipy, self.array = sp.csr_matrix(arrays, shape=(n_rows, n_items)), self.dense.numpy()

    def bag(self, dense):
        return embedding_bag(
            self.col, dense, self.crow, mode="sum", include_last_offset=True, per_sample_weights=self.values
        )

    def read(self):
        left = len(self.col)
        while left > 0:
            self.dense[:left].sum()
            left -= len(self.dense)


@functools.lru_cache(maxsize=1)
def _made(workload):
    return _Workload(*WORKLOADS[workload])


def test_forward(benchmark, contender, workload, number):
    w = _made(workload)
    contenders = {
        "ours": lambda: csr_aggregate(w.x, w.dense),
        "embedding_bag": lambda: w.bag(w.dense),
        "torch CSR": lambda: w.csr @ w.dense,
        "torch CSR, out=": lambda: torch.mm(w.csr, w.dense, out=w.out),
        "scipy": lambda: w.scipy @ w.array,
        "floor": w.read,
    }
    race(benchmark, f"csr_aggregate forward, {workload}", contender, number, contenders[contender], rounds=30)


@pytest.mark.parametrize("contender", GRADIENT_CONTENDERS)
@pytest.mark.parametrize("workload", list(WORKLOADS)[:1])
def test_forward_and_gradient(benchmark, contender, workload, number):
    w = _made(workload)
    leaf = w.dense.detach().requires_grad_()
    kept = torch.zeros_like(w.dense)

    transposed = w.csr.to_sparse_coo().T.to_sparse_csr()

    def into_memory_that_is_there():
        torch.mm(w.csr, w.dense, out=w.out)
        torch.mm(transposed, w.grad, out=kept)

    def floor():
        w.read()
        kept.fill_(0)

    contenders = {
        "ours": lambda: torch.autograd.grad(csr_aggregate(w.x, leaf), leaf, w.grad),
        "embedding_bag": lambda: torch.autograd.grad(w.bag(leaf), leaf, w.grad),
        "torch CSR, out=": into_memory_that_is_there,
        "floor": floor,
    }
    name = f"csr_aggregate forward+gradient, {workload}"
    race(benchmark, name, contender, number, contenders[contender], rounds=10)

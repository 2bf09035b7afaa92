"""Products of rows of two matrices at sparse places, compared with gathered rows: by einsum, by elementwise products.

Floor: reading as many bytes as the gathered rows hold, once, in order (`torch.sum`); rows that several users share come
from a cache, so the operator can be faster than its floor. With the gradient, the floor reads them three times: for the
products, and for the gradients of either matrix.
"""

import functools

import pytest
import torch

from benchmarks.race import race
from benchmarks.sizes import SAMPLED
from dmrec_ext import Csr, csr_dot

WORKLOADS = SAMPLED
CONTENDERS = ["ours", "einsum", "gathered", "floor"]


class _Workload:
    """One batch of users, each with an item and negatives at random."""

    def __init__(self, n_rows, per_row, width, n_items):
        draw = torch.Generator().manual_seed(0)
        self.col = torch.randint(n_items, (n_rows, per_row), generator=draw)
        self.x = Csr(torch.arange(n_rows + 1) * per_row, self.col.reshape(-1), None, n_items)
        self.at = self.x.row_of_entry()
        self.rows, self.dense = torch.randn(n_rows, width), torch.randn(n_items, width)
        self.grad = torch.randn(self.x.nnz)

    def einsum(self, rows, dense):
        return torch.einsum("be,bke->bk", rows, dense[self.col]).reshape(-1)

    def gathered(self, rows, dense):
        return (rows[self.at] * dense[self.x.col]).sum(1)

    def read(self, times=1):
        left = times * self.x.nnz
        while left > 0:
            self.dense[:left].sum()
            left -= len(self.dense)


@functools.lru_cache(maxsize=1)
def _made(workload):
    return _Workload(*WORKLOADS[workload])


def _contenders(w):
    return {"ours": lambda r, d: csr_dot(w.x, r, d), "einsum": w.einsum, "gathered": w.gathered}


def test_forward(benchmark, contender, workload, number):
    w = _made(workload)
    contenders = {name: functools.partial(each, w.rows, w.dense) for name, each in _contenders(w).items()}
    contenders["floor"] = w.read
    race(benchmark, f"csr_dot forward, {workload}", contender, number, contenders[contender], rounds=15)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_forward_and_gradient(benchmark, contender, workload, number):
    w = _made(workload)
    leaves = [each.detach().requires_grad_() for each in (w.rows, w.dense)]

    def step():
        if contender == "floor":
            w.read(3)
            return
        torch.autograd.grad(_contenders(w)[contender](*leaves), leaves, w.grad)

    race(benchmark, f"csr_dot forward+gradient, {workload}", contender, number, step, rounds=10)

"""gaussian_kl, forward and backward, compared with eager torch, torch.compile and torch.distributions.

Least traffic: the forward reads 4 inputs, the backward reads them again and writes 4 gradients, 12 passes over a
(B, D) tensor. The floor is a copy that moves as many bytes (6 tensors read, 6 written).
"""

import pytest
import torch

import dmrec_ext
from benchmarks import peers
from benchmarks.race import race, row_race
from benchmarks.sizes import ROWS

WORKLOADS = ROWS
CONTENDERS = {
    "ours": lambda: dmrec_ext.gaussian_kl,
    "eager": lambda: peers.gaussian_kl,
    "compile": lambda: torch.compile(peers.gaussian_kl, dynamic=False),
    "distributions": lambda: peers.gaussian_kl_distributions,
    "floor": None,
}


def test_gaussian_kl(benchmark, contender, workload, number):
    row_race(benchmark, "gaussian_kl", CONTENDERS, contender, workload, WORKLOADS[workload], number)


@pytest.mark.parametrize("contender", ["ours", "eager"])
@pytest.mark.parametrize("workload", ["(32, 64)", "(256, 64)"])
def test_forward_of_few_rows(benchmark, contender, workload, number):
    size = tuple(map(int, workload[1:-1].split(", ")))
    inputs = [torch.randn(size) for _ in range(4)]
    function = {"ours": dmrec_ext.gaussian_kl, "eager": peers.gaussian_kl}[contender]
    race(benchmark, f"gaussian_kl forward, {workload}", contender, number, lambda: function(*inputs), rounds=1000)

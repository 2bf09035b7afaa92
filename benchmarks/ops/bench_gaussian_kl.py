"""gaussian_kl, forward and backward, compared with eager torch, torch.compile and torch.distributions.

Least traffic: the forward reads 4 inputs, the backward reads them again and writes 4 gradients, 12 passes over a
(B, D) tensor. The floor is a copy that moves as many bytes (6 tensors read, 6 written).
"""

import torch

import dmrec_ext
from benchmarks import peers
from benchmarks.race import row_race
from benchmarks.sizes import ROWS

WORKLOADS = ROWS
CONTENDERS = {
    "ours": lambda: dmrec_ext.gaussian_kl,
    "eager": lambda: peers.gaussian_kl,
    "compile": lambda: torch.compile(peers.gaussian_kl),
    "distributions": lambda: peers.gaussian_kl_distributions,
    "floor": None,
}


def test_gaussian_kl(benchmark, contender, workload, number):
    row_race(benchmark, "gaussian_kl", CONTENDERS, contender, workload, WORKLOADS[workload], number)

"""composite_prior, forward and backward, against eager torch and torch.compile; least traffic as for gaussian_kl."""

import torch

import dmrec_ext
from benchmarks import peers
from benchmarks.race import row_race
from benchmarks.sizes import ROWS

WORKLOADS = ROWS
CONTENDERS = {
    "ours": lambda: dmrec_ext.composite_prior,
    "eager": lambda: peers.composite_prior,
    "compile": lambda: torch.compile(peers.composite_prior, dynamic=False),
    "floor": None,
}


def test_composite_prior(benchmark, contender, workload, number):
    row_race(benchmark, "composite_prior", CONTENDERS, contender, workload, WORKLOADS[workload], number)

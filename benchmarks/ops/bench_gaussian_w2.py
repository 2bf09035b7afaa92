"""gaussian_w2, forward and backward, compared with eager torch and torch.compile; least traffic as for gaussian_kl."""

import torch

import dmrec_ext
from benchmarks import peers
from benchmarks.race import row_race
from benchmarks.sizes import ROWS

WORKLOADS = ROWS
CONTENDERS = {
    "ours": lambda: dmrec_ext.gaussian_w2,
    "eager": lambda: peers.gaussian_w2,
    "compile": lambda: torch.compile(peers.gaussian_w2, dynamic=False),
    "floor": None,
}


def test_gaussian_w2(benchmark, contender, workload, number):
    row_race(benchmark, "gaussian_w2", CONTENDERS, contender, workload, WORKLOADS[workload], number)

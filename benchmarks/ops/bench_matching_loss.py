"""Whole matching losses, forward and backward, fusion by addition; least traffic as for gaussian_kl."""

import functools

import pytest
import torch

import dmrec_ext
from benchmarks import peers
from benchmarks.race import row_race
from benchmarks.sizes import ROWS

WORKLOADS = ROWS
BETA = {"godm": 0.4, "cpdm": 0.2, "mddm": 0.5}
CONTENDERS = {"ours": None, "eager": None, "compile": None, "floor": None}  # made per strategy


def _contenders(strategy):
    options = {"strategy": strategy, "beta": BETA[strategy]}
    peer = functools.partial(peers.MATCHING[strategy], beta=BETA[strategy])
    return {
        "ours": lambda: functools.partial(dmrec_ext.matching_loss, eps=1e-7, **options),
        "eager": lambda: peer,
        "compile": lambda: torch.compile(peer),
        "floor": None,
    }


@pytest.mark.parametrize("strategy", list(BETA))
def test_matching_loss(benchmark, strategy, contender, workload, number):
    name = f"matching_loss {strategy}"
    row_race(benchmark, name, _contenders(strategy), contender, workload, WORKLOADS[workload], number)

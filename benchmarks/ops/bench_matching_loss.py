"""Whole matching losses, forward and backward, fusion by addition.

A value a row: least traffic as for gaussian_kl. Their mean, as training takes it: the forward reads 4 inputs and writes
4 gradients, and the backward has nothing left to do, 8 passes.
"""

import functools

import pytest
import torch

import dmrec_ext
from benchmarks import peers
from benchmarks.race import row_race
from benchmarks.sizes import ROWS

WORKLOADS = ROWS | {"odd (777, 123)": (777, 123)}
BETA = {"godm": 0.4, "cpdm": 0.2, "mddm": 0.5}
CONTENDERS = {"ours": None, "eager": None, "compile": None, "floor": None}  # made per strategy


def _contenders(strategy, reduction):
    options = {"strategy": strategy, "beta": BETA[strategy], "reduction": reduction}
    loss = functools.partial(peers.MATCHING[strategy], beta=BETA[strategy])

    def peer(*posteriors):
        return loss(*posteriors).mean() if reduction == "mean" else loss(*posteriors)

    return {
        "ours": lambda: functools.partial(dmrec_ext.matching_loss, eps=1e-7, **options),
        "eager": lambda: peer,
        "compile": lambda: torch.compile(peer, dynamic=False),
        "floor": None,
    }


@pytest.mark.parametrize("strategy", list(BETA))
def test_matching_loss(benchmark, strategy, contender, workload, number):
    name = f"matching_loss {strategy}"
    row_race(benchmark, name, _contenders(strategy, "none"), contender, workload, WORKLOADS[workload], number)


@pytest.mark.parametrize("strategy", list(BETA))
def test_mean(benchmark, strategy, contender, workload, number):
    contenders, size = _contenders(strategy, "mean"), WORKLOADS[workload]
    row_race(benchmark, f"matching_loss {strategy}, mean", contenders, contender, workload, size, number, passes=8)

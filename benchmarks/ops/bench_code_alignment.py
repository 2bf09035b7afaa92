"""SODA's loss of code distributions, forward and backward, compared with plain torch and torch.compile of it.

Floor: both logits are read twice, both gradients are written; copied as so many bytes.
"""

import functools
import math

import pytest
import torch

from benchmarks import peers
from benchmarks.race import race
from benchmarks.sizes import ALIGNMENT
from dmrec_ext import code_alignment

WORKLOADS = ALIGNMENT
CONTENDERS = ["ours", "eager", "compile", "floor"]
FUNCTIONS = {
    "ours": code_alignment,
    "eager": peers.code_alignment,
    "compile": torch.compile(peers.code_alignment),
}


@functools.lru_cache(maxsize=1)
def _made(workload):
    return [torch.randn(WORKLOADS[workload], requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_code_alignment(benchmark, contender, workload, number):
    if contender == "floor":
        source = torch.randn(3, *WORKLOADS[workload])
        target = torch.empty_like(source)

        def step():
            target.copy_(source)

    else:
        inputs = _made(workload)

        def step():
            torch.autograd.grad(FUNCTIONS[contender](*inputs).sum(), inputs)

    few = math.prod(WORKLOADS[workload]) > 1 << 24
    repetitions = {"rounds": 1, "warmup_rounds": 1} if few else {"rounds": 10, "warmup_rounds": 2}
    race(benchmark, f"code_alignment forward+backward, {workload}", contender, number, step, **repetitions)

"""Residual quantization, forward and backward, compared with the same in plain torch and torch.compile of it.

Floor: x is read twice, sums and the gradient of x are written, the codes written and read; copied as so many bytes.
"""

import functools

import pytest
import torch

from benchmarks import peers
from benchmarks.race import race
from benchmarks.sizes import QUANTIZING
from dmrec_ext import residual_quantize

WORKLOADS = QUANTIZING
CONTENDERS = ["ours", "eager", "compile", "floor"]
FUNCTIONS = {
    "ours": lambda x, books: residual_quantize(x, books)[1:],
    "eager": peers.residual_quantize,
    "compile": torch.compile(peers.residual_quantize),
}


@functools.lru_cache(maxsize=1)
def _made(workload):
    rows, width, levels, codes = WORKLOADS[workload]
    return [torch.randn(rows, width, requires_grad=True), torch.randn(levels, codes, width, requires_grad=True)]


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_residual_quantize(benchmark, contender, workload, number):
    inputs = _made(workload)
    if contender == "floor":
        rows, width, levels, _ = WORKLOADS[workload]
        source = torch.randn(rows, 2 * width + 2 * levels)
        target = torch.empty_like(source)

        def step():
            target.copy_(source)

    else:

        def step():
            quantized, loss = FUNCTIONS[contender](*inputs)
            torch.autograd.grad(quantized.sum() + loss.sum(), inputs)

    few = WORKLOADS[workload][0] > 100_000
    repetitions = {"rounds": 1, "warmup_rounds": 0} if few else {"rounds": 20, "warmup_rounds": 2}
    race(benchmark, f"residual_quantize forward+backward, {workload}", contender, number, step, **repetitions)

"""gaussian_kl, forward and backward, beside eager torch, torch.compile and torch.distributions.

Least traffic: the forward reads 4 inputs, the backward reads them again and writes 4 gradients, 12 passes over a
(B, D) tensor. The floor is a copy that moves as many bytes (6 tensors read, 6 written).
"""

import pytest
import torch

import dmrec_ext
from benchmarks import peers
from benchmarks.sizes import ROWS

WORKLOADS = ROWS
CONTENDERS = {
    "ours": lambda: dmrec_ext.gaussian_kl,
    "eager": lambda: peers.gaussian_kl,
    "compile": lambda: torch.compile(peers.gaussian_kl),
    "distributions": lambda: peers.gaussian_kl_distributions,
    "floor": None,
}
_compiled = {}  # a contender is made once: compilation is not what is measured


def _step(contender, size):
    if contender == "floor":
        source = torch.randn(6, *size)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)
    if contender not in _compiled:
        _compiled[contender] = CONTENDERS[contender]()
    function = _compiled[contender]
    inputs = [torch.randn(size, requires_grad=True) for _ in range(4)]
    grad = torch.rand(size[0])

    def step():
        torch.autograd.grad(function(*inputs), inputs, grad)

    return step


@pytest.mark.benchmark(warmup=False)
def test_forward_and_backward(benchmark, contender, workload, number):
    benchmark.group = f"gaussian_kl forward+backward, {workload}"
    benchmark.extra_info.update(contender=contender, number=number)
    size = WORKLOADS[workload]
    benchmark.pedantic(_step(contender, size), rounds=200 if size[0] < 4096 else 20, warmup_rounds=5)

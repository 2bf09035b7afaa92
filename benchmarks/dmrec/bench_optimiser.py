"""The optimiser step of training: `Adam(fused=True)` and torch's other two, on the weights of a Mult-VAE.

Floor: a copy that moves as many bytes as the step, which reads 4 numbers a weight and writes 3.
"""

import torch

from benchmarks.race import race

WORKLOADS = {"Mult-VAE, 11,010 items x 600": (11_010, 600)}
CONTENDERS = ["ours", "default", "foreach", "floor"]


def test_adam(benchmark, contender, workload, number):
    shape = WORKLOADS[workload]
    weights = [torch.nn.Parameter(torch.randn(shape)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.randn(shape)
    options = {"ours": {"fused": True}, "default": {"foreach": False}, "foreach": {"foreach": True}}
    if contender == "floor":
        source = torch.randn(7, *shape)
        target = torch.empty_like(source)
        race(benchmark, f"adam step, {workload}", contender, number, lambda: target.copy_(source), rounds=10)
    else:
        optimiser = torch.optim.Adam(weights, lr=1e-3, **options[contender])
        race(benchmark, f"adam step, {workload}", contender, number, optimiser.step, rounds=10)

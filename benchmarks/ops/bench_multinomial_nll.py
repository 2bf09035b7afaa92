"""Softmax loss over all items, forward and backward, mean, compared with dense torch, torch.compile of it, and torch's
`linear_cross_entropy`, which takes targets as a dense matrix, too (one repetition: it is slow on the CPU).

Floor: the three products that the loss and its two gradients consist of, in float32, into memory that is there already.
At a million items only ours are measured, without a floor: dense torch takes minutes and over 3 GB.
"""

import functools

import pytest
import torch

from benchmarks.race import race
from benchmarks.sizes import SOFTMAX
from dmrec_ext import Csr, multinomial_nll

WORKLOADS = SOFTMAX
SMALL, LARGE = SOFTMAX
CONTENDERS = ["ours", "ours, bf16", "dense", "dense, compiled", "linear_cross_entropy", "floor"]


@functools.lru_cache(maxsize=1)
def _made(workload):
    users, items, width, targets = WORKLOADS[workload]
    col = torch.cat([torch.randint(items // targets, (targets,)).sort().values for _ in range(users)])
    col = col + (items // targets) * torch.arange(targets).repeat(users)
    x = Csr(torch.arange(0, users * targets + 1, targets), col, None, items)
    hidden = torch.randn(users, width, requires_grad=True)
    weight = (0.05 * torch.randn(items, width)).requires_grad_()
    return hidden, weight, torch.zeros(items, requires_grad=True), x


def _dense_loss(hidden, weight, bias, targets):
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return -(targets * torch.log_softmax(logits, 1)).sum(1).mean()


_compiled = torch.compile(_dense_loss)


def _step(loss, leaves):
    return torch.autograd.grad(loss, leaves)


def _bf16(hidden, weight, bias, x):
    with torch.autocast("cpu", torch.bfloat16):
        return multinomial_nll(hidden, weight, x, bias)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("workload", [SMALL])
def test_multinomial_nll(benchmark, contender, workload, number):
    hidden, weight, bias, x = _made(workload)
    leaves = (hidden, weight, bias)
    h, w = hidden.detach(), weight.detach()
    if contender == "floor":
        logits, of_hidden, of_weight = torch.empty(len(h), len(w)), torch.empty_like(h), torch.empty_like(w)

        def step():
            torch.mm(h, w.T, out=logits)
            torch.mm(logits, w, out=of_hidden)
            torch.mm(logits.T, h, out=of_weight)

    elif contender == "linear_cross_entropy":
        targets = x.to_dense()
        step = functools.partial(
            lambda: _step(torch.nn.functional.linear_cross_entropy(hidden, weight, targets, linear_bias=bias), leaves)
        )
    elif contender.startswith("dense"):
        targets = x.to_dense()  # the peer's, not ours
        function = _compiled if contender == "dense, compiled" else _dense_loss
        step = functools.partial(lambda f: _step(f(*leaves, targets), leaves), function)
    elif contender == "ours, bf16":
        step = functools.partial(lambda: _step(_bf16(*leaves, x), leaves))
    else:
        step = functools.partial(lambda: _step(multinomial_nll(hidden, weight, x, bias), leaves))
    name = f"multinomial_nll forward+backward, {workload}"
    slow = contender == "linear_cross_entropy"
    repetitions = {"rounds": 1, "warmup_rounds": 0} if slow else {"rounds": 3, "warmup_rounds": 1}
    race(benchmark, name, contender, number, step, **repetitions)


@pytest.mark.parametrize("contender", ["ours", "ours, bf16"])
@pytest.mark.parametrize("workload", [LARGE])
def test_a_million_items(benchmark, contender, workload, number):
    hidden, weight, bias, x = _made(workload)
    leaves = (hidden, weight, bias)
    losses = {"ours": lambda: multinomial_nll(hidden, weight, x, bias), "ours, bf16": lambda: _bf16(*leaves, x)}
    name = f"multinomial_nll forward+backward, {workload}"
    step = functools.partial(lambda f: _step(f(), leaves), losses[contender])
    race(benchmark, name, contender, number, step, rounds=1, warmup_rounds=0)

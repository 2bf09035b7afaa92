"""Scratch that stays with a thread: threads do not share it, and it goes with them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dmrec_ext import Csr, multinomial_nll, rank_topk

pytestmark = pytest.mark.cpu_only("on a GPU scratch is the allocator's")


def _problem(seed, n_items=20_000):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, 16, generator=generator) for n in (200, n_items))
    x = torch.rand(200, n_items, generator=generator) < 0.001
    return hidden, weight, Csr.from_torch(x.float())


def _results(problem):
    """Loss and gradients in tiles, and a ranking."""
    hidden, weight, x = problem
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = multinomial_nll(hidden, weight, x, logits_budget=0)
    loss.backward()
    return loss.detach(), hidden.grad, weight.grad, *rank_topk(hidden, weight, 5)


def test_threads_do_not_share_scratch(native):
    problems = [_problem(seed) for seed in range(4)]
    expected = [_results(problem) for problem in problems]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            for found, wanted in zip(threads.map(_results, problems), expected, strict=True):
                for a, b in zip(found, wanted, strict=True):
                    torch.testing.assert_close(a, b)


def test_sizes_and_dtypes_follow_each_other(native):
    """A smaller tile after a larger one, another dtype, and a tile that is too large to be kept."""
    hidden, weight, x = _problem(0)
    for dtype, rows in ((torch.float32, 200), (torch.float64, 200), (torch.bfloat16, 7), (torch.float32, 200)):
        of_rows = x.rows(torch.arange(rows))
        found = multinomial_nll(hidden[:rows].to(dtype), weight.to(dtype), of_rows, logits_budget=0)
        logits = hidden[:rows].double() @ weight.double().T
        wanted = -(logits.log_softmax(1) * of_rows.to_dense(torch.float64)).sum(1).mean()
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=0)
    many = hidden[:1].expand(40_000, 16)
    all_alike = multinomial_nll(many, weight[:600], Csr.from_torch(torch.ones(1, 600)).rows(torch.zeros(40_000).long()))
    one = multinomial_nll(many[:1], weight[:600], Csr.from_torch(torch.ones(1, 600)))
    torch.testing.assert_close(all_alike, one)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of the process from /proc")
def test_memory_goes_with_its_thread(native):
    hidden, weight, x = _problem(0)

    def loss():
        return multinomial_nll(hidden, weight, x, logits_budget=0)

    def in_a_thread():
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(loss).result()

    for _ in range(3):
        in_a_thread()
    before = _resident()
    for _ in range(20):
        torch.testing.assert_close(in_a_thread(), loss())
    assert _resident() - before < 64 << 20  # 20 tiles are 250 MiB


def _resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

"""Sizes and offsets beyond 2^31: `pytest -m slow tests/ops/test_large.py`, with some 20 GB of free memory."""

import os

import pytest
import torch

from dmrec_ext import Csr, csr_aggregate, gaussian_kl
from tests.op_testing import device_type

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("native")]


def _needs(gigabytes):
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if device_type() == "cuda":
        free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"{gigabytes} GB of free memory are needed, there are {free:.0f}")


def test_item_vectors_of_more_than_two_billion_elements():
    """W_I of 1.4 million items x 1536 in bfloat16: forward, and a gradient of the same size."""
    _needs(10)
    n_items, width = 1_400_000, 1536
    assert n_items * width > 2**31
    vectors = torch.zeros(n_items, width, dtype=torch.bfloat16)
    vectors[-3:] = torch.randn(3, width).bfloat16()
    vectors.requires_grad_()
    x = Csr(torch.tensor([0, 2, 4]), torch.tensor([0, n_items - 1, n_items - 3, n_items - 2]), None, n_items)
    result = csr_aggregate(x, vectors)
    expected = torch.stack([vectors[-1], vectors[-3].float() + vectors[-2].float()])
    assert torch.equal(result, expected.bfloat16())
    grad = torch.randn(2, width).bfloat16()
    (of_vectors,) = torch.autograd.grad(result, vectors, grad)
    assert torch.equal(of_vectors[-3:], grad[[1, 1, 0]])
    assert torch.equal(of_vectors[0], grad[0])
    assert of_vectors[1:-3].count_nonzero() == 0


def test_more_than_two_billion_entries():
    _needs(19)
    n = 2**31 + 3
    x = Csr(torch.tensor([0, 2, n]), torch.arange(n), None, n)  # rises within rows, and over them
    ones = torch.ones(1, 1, dtype=torch.float64).expand(n, 1)
    assert csr_aggregate(x, ones).tolist() == [[2.0], [float(n - 2)]]


def test_rows_beyond_two_billion_elements():
    _needs(14)
    n_rows, width = 2**21 + 7, 1024
    rows = torch.zeros(n_rows, width, dtype=torch.bfloat16)
    rows[-2:] = torch.randn(2, width).bfloat16()
    result = gaussian_kl(rows, rows.detach().requires_grad_())
    assert torch.equal(result[-2:], gaussian_kl(rows[-2:].clone(), rows[-2:].clone()))
    assert result[:-2].count_nonzero() == 0
    result.sum().backward()

"""code_alignment on a GPU: the CPU's tests once more, and its bound of memory there."""

import pytest
import torch

from dmrec_ext import code_alignment
from tests.op_testing import extra_bytes
from tests.ops.test_code_alignment import *

pytestmark = pytest.mark.cuda


@pytest.mark.usefixtures("gpu")
def test_nothing_of_the_size_of_the_logits_is_kept():
    leaves = [torch.randn(2048, 2, 256, requires_grad=True) for _ in "yp"]
    n = leaves[0].numel() * 4
    assert extra_bytes(lambda: code_alignment(*leaves)) < 1 << 20
    assert extra_bytes(lambda: torch.autograd.grad(code_alignment(*leaves).sum(), leaves)) < 2 * n + (1 << 20)

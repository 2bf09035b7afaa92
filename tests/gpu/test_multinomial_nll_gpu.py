"""multinomial_nll on a GPU: the CPU's tests once more, and its bounds of memory there."""

import pytest
import torch

from dmrec_ext import Csr, multinomial_nll
from tests.op_testing import extra_bytes
from tests.ops.test_multinomial_nll import *
from tests.simt.test_multinomial_nll_cuda import test_no_index_leads_out_of_memory as cuda_no_index

pytestmark = pytest.mark.cuda


@pytest.mark.usefixtures("gpu")
def test_no_index_leads_out_of_memory():
    cuda_no_index()


@pytest.mark.usefixtures("gpu")
def test_no_matrix_of_users_and_items_beyond_the_budget():
    """1.2 GB of logits are over the budget: scratch is a tile of 16 million numbers and what gradients need."""
    users, items = 1024, 300_000
    hidden, weight = torch.randn(users, 8, requires_grad=True), torch.randn(items, 8, requires_grad=True)
    x = Csr(torch.arange(users + 1), torch.randint(0, items, (users,)), None, items)
    gradients = (hidden.numel() + weight.numel()) * 4
    assert extra_bytes(lambda: torch.autograd.grad(multinomial_nll(hidden, weight, x), (hidden, weight))) < (
        3 * gradients + (160 << 20)
    )
    with torch.no_grad():
        assert extra_bytes(lambda: multinomial_nll(hidden, weight, x)) < 160 << 20

"""multinomial_nll of the CUDA half: the CPU's tests once more, and what differs."""

import pytest
import torch
from emulated import ORDERS

from dmrec_ext import Csr, multinomial_nll
from tests.ops.test_multinomial_nll import (  # pytest runs them here, too
    budget,
    test_a_user_without_targets_costs_nothing,
    test_every_subset_of_gradients,
    test_gradients,
    test_is_the_dense_loss,
    test_is_the_dense_loss_with_gradients,
    test_large_logits_stay_finite,
    test_nothing_cancels,
    test_products_in_bf16_stay_close,
    test_terms_are_the_sums_over_items,
    test_terms_of_large_logits_and_of_none,
    test_terms_of_parts_are_those_of_the_whole,
    test_values_of_another_dtype_do_not_change_that_of_the_loss,
)


@pytest.fixture(autouse=True, params=[("fast", "random"), *(("checked", order) for order in ORDERS)])
def emulated(request):
    build = request.getfixturevalue(request.param[0])
    with build.running(request.param[1]):
        yield build


def test_tiles_do_not_change_the_bits(emulated):
    """Chunks of a row are summed, and then their sums. Around the borders of chunks (4096) and tiles (65536)."""
    for n_items in (4095, 4097, 66_000) if not emulated.checked else (4097,):
        hidden, weight, bias = (
            t.requires_grad_() for t in (torch.randn(2, 3), torch.randn(n_items, 3), torch.randn(n_items))
        )
        x = Csr.from_torch((torch.rand(2, n_items) < 0.01).float())
        results = []
        for limit in (1 << 30, 0):
            loss = multinomial_nll(hidden, weight, x, bias, reduction="none", logits_budget=limit)
            results.append([loss, *torch.autograd.grad(loss.sum(), (hidden, weight, bias))])
        for saved, tiled in zip(*results, strict=True):
            torch.testing.assert_close(saved, tiled)  # products of tiles may round differently
        dense = torch.log_softmax(hidden.double() @ weight.double().T + bias.double(), 1)
        torch.testing.assert_close(results[0][0].double(), -(dense * x.to_dense()).sum(1), rtol=1e-5, atol=0)


def test_no_index_leads_out_of_memory():
    """They cannot be checked without waiting for the GPU."""
    op = torch.ops.dmrec_ext
    hidden, weight, bias = torch.randn(2, 3), torch.randn(9, 3), torch.randn(9)
    far = torch.iinfo(torch.int64)
    for crow in ([0, 1, 2], [0, far.max, 2], [far.min, 1, far.max], [2, 1, 0]):
        for col in ([0, 9], [-1, 0], [5, 5], [far.min, far.max]):
            x = (torch.tensor(crow), torch.tensor(col), None)
            _, log_sums, saved = op.multinomial_terms(hidden, weight, *x, bias, False, True)
            arguments = (torch.ones(2, 2).double(), hidden, weight, *x, bias, False, log_sums, saved, 7)
            if col != [5, 5]:  # twice in a row: two threads would write there, which harms nothing else
                op._multinomial_terms_backward(*arguments)

"""csr_aggregate of the CUDA half: the CPU's tests once more, and what differs."""

import pytest
import torch
from emulated import ORDERS

from dmrec_ext import Csr, csr_aggregate, csr_dot
from tests.ops import test_csr_aggregate as on_the_cpu
from tests.ops.test_csr_aggregate import (  # pytest runs them here, too
    test_a_transpose_outside_the_graph_costs_no_derivative,
    test_autocast_follows_the_dense_matrix,
    test_empty_rows_give_the_bias,
    test_gradients,
    test_is_the_dense_product,
    test_nan_stays_where_it_is_used,
    test_nothing_to_sum_is_differentiable,
    test_the_same_bits_for_every_layout,
)
from tests.ops.test_csr_aggregate_dtype import (
    test_a_sparse_gradient_over_16_bits,
    test_autocast_follows_the_result,
    test_second_derivatives_over_16_bits,
    test_sums_in_float32_are_those_that_16_bits_round,
    test_what_the_raw_operators_refuse,
)

OP = torch.ops.dmrec_ext


@pytest.fixture(autouse=True, params=[("fast", "random"), *(("checked", order) for order in ORDERS)])
def emulated(request):
    build = request.getfixturevalue(request.param[0])
    with build.running(request.param[1]):
        yield build


def test_long_rows_lose_no_digits():
    """Rows of 1, 256, 257, .. entries: sums run in parts of 256."""
    on_the_cpu.test_long_rows_lose_no_digits(torch.float32, torch.float32, 1e-5)


@pytest.mark.parametrize("size", [1, 7])
def test_the_same_bits_for_every_split_of_the_batch(size):
    x = torch.rand(40, 300) < 0.9
    x, weight = Csr.from_torch(x.float()), torch.randn(300, 130)
    whole = csr_aggregate(x, weight)
    for start in range(0, 40, size):
        rows = torch.arange(start, min(start + size, 40))
        assert torch.equal(csr_aggregate(x.rows(rows), weight), whole[rows])


def test_no_index_leads_out_of_memory():
    """They cannot be checked without waiting for the GPU: the result is wrong, and nothing else is touched."""
    crow, col, weight = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.randn(2, 4)
    far = torch.iinfo(torch.int64)
    for bad_crow in ([0, 2, 4], [1, 2, 3], [0, 4, 3], [0, -1, 3], [0, far.min, 3], [0, far.max, 3], [0, 2]):
        bad_crow = torch.tensor(bad_crow)
        assert OP.csr_aggregate(bad_crow, col, None, weight).shape == (len(bad_crow) - 1, 4)
        OP._csr_dot(bad_crow, col, weight[: len(bad_crow) - 1], weight)
        assert OP._csr_transpose(bad_crow, col, 2)[1].max() < 2
    for bad_col in ([0, 1, 2], [0, -1, 1], [far.min, 1, 1], [far.max, 1, 1]):
        bad_col = torch.tensor(bad_col)
        assert OP.csr_aggregate(crow, bad_col, None, weight).isfinite().all()
        OP._csr_dot(crow, bad_col, weight, weight)
        t_crow, t_col, entry = OP._csr_transpose(crow, bad_col, 2)
        OP.csr_aggregate(t_crow, t_col, None, weight)
        assert sorted(entry.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("width", [1, 33, 64, 130])
def test_products_at_places_in_any_order(width):
    """Columns repeat and do not rise: value and gradients against gathered rows."""
    counts = torch.tensor([0, 1, 40, 3, 300])
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    x = Csr(crow, torch.randint(7, (int(crow[-1]),)), None, 7)
    rows, dense = torch.randn(5, width, requires_grad=True), torch.randn(7, width, requires_grad=True)
    found, expected = csr_dot(x, rows, dense), (rows[x.row_of_entry()] * dense[x.col]).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    grad = torch.randn(x.nnz)
    for mine, right in zip(
        *(torch.autograd.grad(each, (rows, dense), grad) for each in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-3)


def test_transposed():
    dense = (torch.rand(23, 31) < 0.2).float()
    x, right = Csr.from_torch(dense), Csr.from_torch(dense.T)
    t_crow, t_col, _ = OP._csr_transpose(x.crow, x.col, 40)
    assert torch.equal(t_crow[:32], right.crow)
    assert (t_crow[31:] == x.nnz).all()
    assert torch.equal(t_col, right.col)

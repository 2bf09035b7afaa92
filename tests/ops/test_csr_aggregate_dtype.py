"""csr_aggregate with results in float32 over a dense matrix of 16 bits: what is special about them.

`test_csr_aggregate.py` has what holds for every pair of dtypes.
"""

import pytest
import scipy.sparse as sp
import torch

from dmrec_ext import Csr, csr_aggregate, reference, use_reference
from tests.op_testing import device_type
from tests.ops.test_csr_aggregate import WIDTHS, _case, _case_of_pair

OP = torch.ops.dmrec_ext


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_sums_in_float32_are_those_that_16_bits_round(native, stored, values):
    """From the same numbers the same bits, but for the rounding: of the result, and of the gradient of values."""
    for width in WIDTHS:
        x, weight = _case(41, 17, width, values, stored)
        bias, grad = torch.randn(41, width).to(stored), torch.randn(41, width).to(stored)
        in_float32 = x._replace(values=x.values.float() if values else None)
        result = csr_aggregate(in_float32, weight, bias.float(), dtype=torch.float32)
        assert torch.equal(result.to(stored), csr_aggregate(x, weight, bias))
        products = OP._csr_dot(x.crow, x.col, grad.float(), weight)
        assert products.dtype == torch.float32
        assert torch.equal(products.to(stored), OP._csr_dot(x.crow, x.col, grad, weight))
        assert torch.equal(csr_aggregate(x, weight, bias, dtype=stored), csr_aggregate(x, weight, bias))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_second_derivatives_over_16_bits(stored, cached):
    """Those of a dense matrix that is made float32 first, but for the rounding of its gradient."""
    x, weight = _case_of_pair((6, 5, 3), (stored, torch.float32))
    leaves = [weight.requires_grad_(), torch.randn(6, 3, requires_grad=True), x.values.requires_grad_()]
    transpose = x.transpose() if cached else None
    found = []
    for result in (
        csr_aggregate(x, weight, leaves[1], transpose=transpose, dtype=torch.float32),
        csr_aggregate(x, weight.float(), leaves[1]),
    ):
        first = torch.autograd.grad(result.pow(3).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(each.float().square().sum() for each in first), leaves)
        assert [each.dtype for each in (*first, *second)] == 2 * [stored, torch.float32, torch.float32]
        found.append([result, *first, *second])
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-2 * float(right.detach().abs().max()))


def test_registration(native):
    x, weight = _case_of_pair((4, 6, 3), (torch.float16, torch.float32))
    transpose, values, weight = x.transpose()[:3], x.values.requires_grad_(), weight.requires_grad_()
    bias, grad = torch.randn(3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    inputs = (x.crow, x.col, values, weight, bias, *transpose, torch.float32)
    torch.library.opcheck(OP.csr_aggregate.default, inputs)
    torch.library.opcheck(OP._csr_dot.default, (x.crow, x.col, grad, weight))


def test_transforms_over_16_bits_give_what_the_reference_gives():
    x, weight = _case_of_pair((6, 5, 3), (torch.float16, torch.float32))
    pairs = []
    for function in (csr_aggregate, reference.csr_aggregate):
        options = {"dtype": torch.float32}
        gradient = torch.func.grad(lambda w, f=function, o=options: f(x, w, **o).square().sum())(weight)
        pairs.append([gradient, torch.func.jvp(lambda w, f=function, o=options: f(x, w, **o), (weight,), (weight,))])
    torch.testing.assert_close(*pairs)
    assert pairs[0][0].dtype == torch.float16
    torch.testing.assert_close(pairs[0][1], (csr_aggregate(x, weight, dtype=torch.float32),) * 2)


def test_autocast_follows_the_result():
    x, weight = _case(6, 5, 3, dtype=torch.bfloat16)
    bias = torch.randn(3, dtype=torch.bfloat16)
    with torch.autocast(device_type(), dtype=torch.bfloat16):
        result = csr_aggregate(x, weight, bias, transpose=x.transpose(), dtype=torch.float32)
    expected = csr_aggregate(x._replace(values=x.values.float()), weight, bias.float(), dtype=torch.float32)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("without_kernels", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_sparse_gradient_over_16_bits(weighted, without_kernels):
    x = Csr.from_scipy(sp.random(5, 40, density=0.1, format="csr", random_state=3))
    x = x._replace(values=x.values.requires_grad_() if weighted else None)
    leaves = [torch.randn(40, 6).bfloat16().requires_grad_(), torch.randn(6, requires_grad=True)]
    leaves += [x.values] if weighted else []
    with use_reference(without_kernels):
        results = [csr_aggregate(x, *leaves[:2], sparse_grad=each, dtype=torch.float32) for each in (False, True)]
        torch.testing.assert_close(*results)
        expected, found = (torch.autograd.grad(each.square().sum(), leaves) for each in results)
    assert found[0].is_sparse
    assert found[0]._nnz() == len(x.col.unique())
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close([found[0].to_dense(), *found[1:]], list(expected))


def test_what_is_refused():
    x, weight = _case(6, 5, 3)
    for stored, other in (
        (torch.float32, torch.float64),
        (torch.float32, torch.float16),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.float64),
        (torch.float16, torch.int64),
        (torch.float16, "float32"),
    ):
        message = f"dtype must be that of dense .{stored}., or float32 where that has 16 bits, got {other}"
        with pytest.raises(TypeError, match=f"csr_aggregate: {message}"):
            csr_aggregate(x, weight.to(stored), dtype=other)
    half = x._replace(values=x.values.half())
    with pytest.raises(
        TypeError, match=r"x.values must have the dtype of the result .torch.float32., got torch.float16"
    ):
        csr_aggregate(half, weight.half(), dtype=torch.float32)
    single = x._replace(values=x.values.float())
    with pytest.raises(TypeError, match=r"bias must have the dtype of the result .torch.float32., got torch.float16"):
        csr_aggregate(single, weight.half(), weight[0].half(), dtype=torch.float32)
    with pytest.raises(TypeError, match="transpose.values must have the dtype of the result"):
        csr_aggregate(single, weight.half(), transpose=half.transpose(), dtype=torch.float32)


def test_what_the_raw_operators_refuse(native):
    crow, col, weight = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.randn(2, 4)
    half, single = weight.half(), torch.float32
    with pytest.raises(RuntimeError, match="values must have the dtype of the result"):
        OP.csr_aggregate(crow, col, torch.ones(3).half(), half, dtype=single)
    with pytest.raises(RuntimeError, match="bias must have the dtype of the result"):
        OP.csr_aggregate(crow, col, None, half, half[0], dtype=single)
    for stored, other in ((weight, torch.float64), (weight, torch.float16), (half, torch.bfloat16)):
        with pytest.raises(RuntimeError, match="dtype must be that of dense, or float32 where that has 16 bits"):
            OP.csr_aggregate(crow, col, None, stored, dtype=other)
        with pytest.raises(RuntimeError, match="rows must be .B, E., in the dtype of dense, or in float32"):
            OP._csr_dot(crow, col, stored.to(other), stored)

"""Row operators of the CUDA half, executed thread by thread, by the checks that the CPU's pass."""

import pytest
import torch
from emulated import ORDERS

from tests import op_testing
from tests.ops import test_composite_prior, test_gaussian_kl, test_gaussian_w2, test_matching_loss

CASES = {
    f"{module.__name__.rpartition('.test_')[2]}: {case.name}": case
    for module in (test_gaussian_kl, test_gaussian_w2, test_composite_prior, test_matching_loss)
    for case in module.CASES
}
CHECKS = [
    op_testing.check_sizes,
    op_testing.check_layouts,
    op_testing.check_broadcasting,
    op_testing.check_derivatives,
    op_testing.check_determinism,
    op_testing.check_nan_stays_in_its_row,
    op_testing.check_extremes,
    op_testing.check_reductions,
]

# around the borders of a piece (2 to 8 elements), a warp's stride, a block's rows, and a warp's row (1024)
BORDERS = [(1, 1), (8, 7), (9, 9), (2, 127), (3, 129), (2, 256), (1, 1024), (2, 1025), (1, 2049)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_shared(fast, case, check):
    with fast.running():
        check(case)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_nothing_is_found(checked, case, order):
    with checked.running(order):
        for size in [(0, 3), (3, 0), *BORDERS]:
            for dtype, tolerance in op_testing.TOLERANCES:
                op_testing.check_against_reference(case, case.inputs(size, dtype), tolerance)
        wide = torch.randn(9, 2 * 41 + 1)
        slices = [wide[:, 1 + i : 42 + i] for i in range(case.n_inputs)]  # unaligned, and they overlap
        op_testing.check_against_reference(case, slices, 1e-5)
        for size in BORDERS:
            inputs = [x.requires_grad_() for x in case.inputs(size, torch.float32)]
            both = torch.autograd.grad(3 * case.function(*inputs, reduction="sum"), inputs)
            apart = torch.autograd.grad(3 * case.function(*inputs).sum(), inputs)
            torch.testing.assert_close(both, apart, rtol=1e-4, atol=1e-5)


def test_orders_and_builds_agree_bit_for_bit(fast, checked):
    case = CASES["matching_loss: mddm add"]
    inputs = case.inputs((9, 1300), torch.float32)
    results = []
    for build in (fast, checked):
        for order in ORDERS:
            with build.running(order, seed=5):
                results.append(case.function(*inputs))
    # two compilations may differ in the last digit, the orders of one may not
    assert all(torch.equal(results[0], other) for other in results[:3])
    assert all(torch.equal(results[3], other) for other in results[3:])
    torch.testing.assert_close(results[0], results[3])


@pytest.mark.parametrize(("aligned", "least"), [(True, 0.98), (False, 0.2)])
def test_traffic(checked, aligned, least):
    """Aligned rows move no sector more than they must; others go one by one, out of the first-level cache."""
    case = CASES["matching_loss: mddm add"]
    inputs = case.inputs((16, 400), torch.float32)
    if not aligned:
        inputs = [torch.cat([x, x[:, :1]], 1)[:, 1:] for x in inputs]
    with checked.running(traffic=True):
        torch.autograd.grad(case.function(*(x.requires_grad_() for x in inputs)).sum(), inputs)
        traffic = checked.traffic()
    assert set(traffic) == {"row_forward", "row_backward"}
    with checked.running(traffic=True):
        loss = case.function(*inputs, reduction="mean")
        torch.autograd.grad(loss, inputs)
        reduced = checked.traffic()
    assert set(reduced) == {"row_both", "sum_of_rows"}  # the gradient that comes in is 1
    for counts in (*traffic.values(), reduced["row_both"]):
        assert counts["ideal_sectors"] >= least * counts["sectors"]
    moved = [sum(counts["sectors"] for counts in each.values()) for each in (traffic, reduced)]
    assert moved[1] <= 0.72 * moved[0]  # 8 passes instead of 12, and a value of each row

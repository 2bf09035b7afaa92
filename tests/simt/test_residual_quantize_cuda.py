"""residual_quantize of the CUDA half: the CPU's tests once more, and what differs."""

import pytest
import torch

from tests.ops.test_residual_quantize import (  # pytest runs them here, too
    test_duplicates_nothing_and_nan,
    test_every_subset_of_outputs_and_gradients,
    test_is_its_equation_with_gradients,
    test_layouts_do_not_matter,
    test_native_is_the_reference,
    test_one_number,
    test_other_dtypes,
    test_ties_go_to_the_lowest_code,
)


@pytest.fixture(autouse=True, params=[("fast", "random"), ("checked", "descending"), ("checked", "random")])
def emulated(request):
    build = request.getfixturevalue(request.param[0])
    with build.running(request.param[1]):
        yield build


def test_no_index_leads_out_of_memory():
    """They cannot be checked without waiting for the GPU."""
    op = torch.ops.dmrec_ext
    x, books = torch.randn(4, 3), torch.randn(2, 5, 3)
    _, loss, codes = op.residual_quantize(x, books, 0.25, "full")
    far = torch.iinfo(torch.int64)
    for begin in ([0, 1, 2, 3, 4, 4], [far.min, far.max, 0, -1, 9, 4]):
        for rows in ([0, 1, 2, 3], [far.min, far.max, 4, -1]):
            for bad in (codes, codes + far.max // 2, codes - 9):
                places = (torch.tensor([begin] * 2), torch.tensor([rows] * 2))
                op._residual_quantize_backward(x, loss, x, books, bad, *places, 0.25, "full", 3)

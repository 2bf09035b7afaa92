"""code_alignment of the CUDA half: the CPU's tests once more."""

import pytest

from tests.ops.test_code_alignment import (  # pytest runs them here, too
    test_delta_is_at_most_levels_log_batch,
    test_every_subset_of_gradients,
    test_float32_is_float64,
    test_gradients_in_closed_form,
    test_is_its_definition,
    test_nan_in_a_target_stays_in_its_row,
    test_native_is_the_reference,
    test_no_rows_and_16_bits,
    test_one_row_that_is_alone_with_its_code,
    test_what_tells_nothing_costs_log_2,
)


@pytest.fixture(autouse=True, params=[("fast", "random"), ("checked", "descending"), ("checked", "random")])
def emulated(request):
    build = request.getfixturevalue(request.param[0])
    with build.running(request.param[1]):
        yield build

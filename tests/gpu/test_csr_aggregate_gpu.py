"""csr_aggregate on a GPU: the CPU's tests once more, and those of the emulator that need no emulator."""

import pytest

from tests.ops.test_csr_aggregate import *
from tests.ops.test_csr_aggregate_dtype import *
from tests.simt.test_csr_aggregate_cuda import (  # pytest runs them here, too
    test_no_index_leads_out_of_memory as cuda_no_index,
)
from tests.simt.test_csr_aggregate_cuda import test_transposed

pytestmark = pytest.mark.cuda


@pytest.mark.usefixtures("gpu")
def test_no_index_leads_out_of_memory():
    cuda_no_index()

"""residual_quantize on a GPU: the CPU's tests once more, and those of the emulator that need no emulator."""

import pytest
import torch

from dmrec_ext import residual_quantize
from tests.op_testing import extra_bytes
from tests.ops.test_residual_quantize import *
from tests.simt.test_residual_quantize_cuda import test_no_index_leads_out_of_memory as cuda_no_index

pytestmark = pytest.mark.cuda


@pytest.mark.usefixtures("gpu")
def test_no_index_leads_out_of_memory():
    cuda_no_index()


@pytest.mark.usefixtures("gpu")
def test_no_matrix_of_rows_and_codes():
    """300,000 rows and 256 codes would be 300 MB of distances."""
    x, books = torch.randn(300_000, 32), torch.randn(2, 256, 32)
    results = (32 * 4 + 2 * 8 + 4) * len(x)
    assert extra_bytes(lambda: residual_quantize(x, books)) < results + x.nbytes + (4 << 20)

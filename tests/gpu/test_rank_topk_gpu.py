"""rank_topk on a GPU: the CPU's tests once more, and the CPU's own result, whose ids must be the same."""

import pytest
import torch

from dmrec_ext import Csr, rank_topk
from tests.op_testing import extra_bytes
from tests.ops.test_rank_topk import *
from tests.simt.test_rank_topk_cuda import LARGE, SMALL

pytestmark = pytest.mark.cuda
# users, items, width, k: as under the emulator, and more users than go at once, and catalogues of many tiles
SIZES = [*SMALL, *LARGE, (2050, 300, 2, 2), (500, 150_001, 40, 20), (2, 1_000_000, 8, 100)]


def _inputs(users, n_items, width, dtype):
    query, items, bias = (torch.randn(s).to(dtype) for s in ((users, width), (n_items, width), (n_items,)))
    col = torch.randint(0, max(1, n_items // 8), (users, 5)).sort(1).values + torch.arange(5)
    col = col.clamp(max=n_items - 1) if n_items >= 8 else torch.zeros(users, 0, dtype=torch.int64)
    distinct = [row.unique() for row in col.cpu()]  # columns rise strictly
    crow = torch.tensor([0, *(len(row) for row in distinct)]).cumsum(0)
    return query, items, bias, Csr(crow, torch.cat(distinct).to(query.device), None, n_items)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_ids_are_the_cpus(size, dtype, native):
    *shape, k = size
    query, items, bias, exclude = _inputs(*shape, dtype)
    on_the_cpu = Csr(exclude.crow.cpu(), exclude.col.cpu(), None, shape[1])
    for options, other in (({}, {}), ({"bias": bias, "exclude": exclude}, {"bias": bias.cpu(), "exclude": on_the_cpu})):
        expected = rank_topk(query.cpu(), items.cpu(), k, **other)
        for precision in ("float32", "bf16"):
            scores, ids = rank_topk(query, items, k, precision=precision, **options)
            assert torch.equal(ids.cpu(), expected[1]), precision
            if dtype == torch.float64:  # whose products round: fused or not
                torch.testing.assert_close(scores.cpu(), expected[0])
            else:
                assert torch.equal(scores.cpu(), expected[0])
            assert_same_prepared((scores, ids), query, items, k, precision=precision, **options)


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_ids_are_the_cpus_where_products_cannot_tell_items_apart(spread, native):
    query, items = torch.randn(2, 30), torch.randn(1, 30) + spread * torch.randn(40_000, 30)
    assert torch.equal(rank_topk(query, items, 50)[1].cpu(), rank_topk(query.cpu(), items.cpu(), 50)[1])


def test_ids_are_the_cpus_in_tf32(gpu):
    query, items = torch.randn(64, 200), torch.randn(50_000, 200)
    expected = rank_topk(query.cpu(), items.cpu(), 20)[1]
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for precision in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = precision
            assert torch.equal(rank_topk(query, items, 20)[1].cpu(), expected), precision
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("gpu")
def test_no_matrix_of_users_and_items():
    query, items = torch.randn(256, 16), torch.randn(1_000_000, 16)
    assert extra_bytes(lambda: rank_topk(query, items, 10)) < 100 << 20  # a tile: 64 MiB; all scores: 1 GB


@pytest.mark.usefixtures("gpu")
def test_a_k_above_the_kernels_limit_runs_on_plain_torch():
    query, items = torch.randn(3, 8), torch.randn(3000, 8)
    few, many = (rank_topk(query, items, k)[1] for k in (1024, 1025))
    assert many.shape == (3, 1025)
    assert (few == many[:, :1024]).double().mean() > 0.99  # float32 products round: neighbours may change places

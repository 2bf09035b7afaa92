"""rank_topk of the CUDA half: exactly the CPU's ids, and its scores bit for bit."""

import math

import pytest
import torch
from emulated import ORDERS

from dmrec_ext import Csr, rank_topk
from tests.ops import test_rank_topk as on_the_cpu

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# users, items, width, k: around the borders of a chunk (1024), of a tile, of the buffer, and k up to its limit
SMALL = [(1, 1, 1, 1), (2, 30, 4, 40), (3, 1023, 5, 20), (1, 1025, 64, 33), (2, 2500, 17, 7), (3, 40, 0, 3)]
LARGE = [(600, 1500, 8, 5), (2, 3000, 24, 1024), (3, 70_000, 16, 20), (1, 20_000, 16, 100)]


def _inputs(users, n_items, width, dtype=torch.float32):
    query, items, bias = (torch.randn(s).to(dtype) for s in ((users, width), (n_items, width), (n_items,)))
    return query, items, {"bias": bias, "exclude": Csr.from_torch((torch.rand(users, n_items) < 0.1).float())}


def _assert_as_on_the_cpu(build, order, query, items, k, **options):
    options["exact_scores"] = True
    expected = rank_topk(query, items, k, **options)
    for precision in ("float32", "bf16"):
        with build.running(order):
            scores, ids = rank_topk(query, items, k, precision=precision, **options)
            on_the_cpu.assert_same_prepared((scores, ids), query, items, k, precision=precision, **options)
        assert torch.equal(ids, expected[1]), precision
        if query.dtype == torch.float64:  # whose products round: fused or not
            torch.testing.assert_close(scores, expected[0], equal_nan=True)
        else:
            assert torch.equal(scores.nan_to_num(7e7), expected[0].nan_to_num(7e7))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SMALL)
def test_ids_are_the_cpus(fast, checked, size, dtype, order):
    *shape, k = size
    query, items, options = _inputs(*shape, dtype)
    for build in (fast, checked):
        _assert_as_on_the_cpu(build, order, query, items, k)
        _assert_as_on_the_cpu(build, order, query, items, k, **options)


@pytest.mark.parametrize("size", LARGE)
def test_large(fast, size):
    *shape, k = size
    query, items, options = _inputs(*shape)
    _assert_as_on_the_cpu(fast, "random", query, items, k, **options)


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_that_go_through_several_chunks(checked, order):
    query, items, options = _inputs(1, 34_000, 3)
    _assert_as_on_the_cpu(checked, order, query, items, 5, **options)


def test_items_behind_the_least_score_are_left_out(fast):
    query, items, options = _inputs(3, 2500, 7)
    best, _ = rank_topk(query, items, 9, exact_scores=True, **options)
    at_least = torch.stack([best[0, 4], best[1, 8] - 1, torch.tensor(math.nan)])
    _assert_as_on_the_cpu(fast, "random", query, items, 9, at_least=at_least, **options)
    with fast.running():
        assert (rank_topk(query, items, 9, at_least=at_least, **options)[1] >= 0).sum(1).tolist() == [5, 9, 9]


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_items_that_products_cannot_tell_apart(fast, spread):
    query, items = torch.randn(2, 30), torch.randn(1, 30) + spread * torch.randn(40_000, 30)
    _assert_as_on_the_cpu(fast, "ascending", query, items, 50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unbounded_numbers_rank_as_they_should(fast, checked, dtype):
    """NaN, infinities and norms that overflow, in users, items and bias."""
    query, items, options = _inputs(6, 1500, 5, dtype)
    huge = torch.finfo(dtype).max / 8
    items[3, 1], items[700, 0], items[701, 2], items[1400] = math.nan, math.inf, -math.inf, huge
    options["bias"][10], options["bias"][1300], options["bias"][11] = math.inf, -math.inf, math.nan
    query[1, 2] = math.nan
    if dtype == torch.float32:  # in float64 sums of huge products depend on their order
        query[2] = huge
    _assert_as_on_the_cpu(fast, "random", query, items, 1000, **options)
    _assert_as_on_the_cpu(checked, "random", query[:3], items, 5, bias=options["bias"])


def test_what_underflows_ranks_right(fast):
    for query, items in (
        (torch.tensor([[4e-41]]), torch.arange(1.0, 2001)[:, None] * 1e12),
        (torch.randn(4, 16) * 1e-39, torch.randn(3000, 16) * 1e9),
        (torch.randn(4, 16) * 1e10, torch.randn(3000, 16) * 1e-41),
    ):
        _assert_as_on_the_cpu(fast, "ascending", query, items, 10)


def test_everything_excluded_and_nothing_there(fast):
    query, items = torch.randn(2, 3), torch.randn(5, 3)
    with fast.running():
        scores, ids = rank_topk(query, items, 2, exclude=Csr.from_torch(torch.ones(2, 5)))
        assert ids.tolist() == [[-1, -1]] * 2
        assert scores.tolist() == [[-math.inf] * 2] * 2
        assert rank_topk(query, items[:0], 3)[1].tolist() == [[-1] * 3] * 2
        assert rank_topk(query[:0], items, 3)[0].shape == (0, 3)


def test_the_same_bits_for_any_batch_and_layout(fast):
    query, items = torch.randn(40, 48), torch.randn(48, 3001).T
    with fast.running():
        whole = rank_topk(query, items.contiguous(), 20)
        assert all(map(torch.equal, rank_topk(query, items, 20), whole))
        wide = torch.randn(3001, 97)
        wide[:, 1:49] = items
        assert all(map(torch.equal, rank_topk(query, wide[:, 1:49], 20), whole))
        for size in (1, 7):
            for start in range(0, 40, size):
                part = rank_topk(query[start : start + size], items, 20)
                assert all(torch.equal(p, w[start : start + size]) for p, w in zip(part, whole, strict=True))


def test_no_index_of_what_is_excluded_leads_out_of_memory(checked):
    """They cannot be checked without waiting for the GPU."""
    query, items = torch.randn(2, 6), torch.randn(9, 6)
    far = torch.iinfo(torch.int64)
    with checked.running():
        for crow in ([0, 1, 2], [0, far.max, 2], [far.min, 1, far.max], [2, 1, 0]):
            for col in ([0, 9], [-1, 0], [1, 0], [far.min, far.max]):
                torch.ops.dmrec_ext.rank_topk(query, items, 3, None, torch.tensor(crow), torch.tensor(col))


def test_more_users_than_go_at_once(fast):
    query, items, options = _inputs(2050, 12, 2)
    with fast.running():
        scores, ids = rank_topk(query, items, 2, **options)
    expected = rank_topk(query, items, 2, **options)
    assert torch.equal(ids, expected[1])
    assert torch.equal(scores, expected[0])


def test_k_has_a_limit(fast):
    with fast.running(), pytest.raises(RuntimeError, match="rank_topk: k must be at most 1024 on CUDA"):
        rank_topk(torch.randn(2, 6), torch.randn(9, 6), 1025)


def test_no_matrix_of_users_and_items(fast):
    query, items = torch.randn(260, 1), torch.randn(130_000, 1)
    with fast.running():
        peak = on_the_cpu.extra_bytes(lambda: rank_topk(query[:], items, 3))
    assert peak < 75 << 20  # a tile of products is 64 MiB; all scores: 135 MB

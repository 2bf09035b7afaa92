"""Rankings against a brute-force sort by (score descending, id ascending, NaN last), item by item."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmrec_ext import (
    NATIVE_ABSENT,
    Csr,
    PreparedItems,
    merge_topk,
    prepare_items,
    rank_scores,
    rank_topk,
    use_reference,
)
from dmrec_ext.ops.rank_topk import _float32_products_are_rounded
from tests.op_testing import extra_bytes


def _brute_force(scores, k, excluded=frozenset()):
    candidates = [i for i in range(len(scores)) if i not in excluded]
    candidates.sort(key=lambda i: (math.isnan(scores[i]), -scores[i] if not math.isnan(scores[i]) else 0, i))
    ids = candidates[:k] + [-1] * (k - len(candidates[:k]))
    return [scores[i] if i >= 0 else -math.inf for i in ids], ids


def _assert_ranked(result, scores, k, exclude=None):
    for b, row in enumerate(scores.tolist()):
        seen = set() if exclude is None else set(exclude.rows(torch.tensor([b])).col.tolist())
        expected_scores, expected_ids = _brute_force(row, k, seen)
        assert result[1][b].tolist() == expected_ids
        torch.testing.assert_close(result[0][b], torch.tensor(expected_scores).to(scores.dtype), equal_nan=True)


@pytest.mark.parametrize("k", [1, 3, 12, 20])
@pytest.mark.parametrize("kind", ["distinct", "ties", "all equal", "nan", "infinite"])
def test_the_order_is_total(kind, k):
    scores = torch.randn(9, 12)
    if kind == "ties":
        scores = torch.randint(0, 3, (9, 12)).float()
    elif kind == "all equal":
        scores = torch.zeros(9, 12)
    elif kind == "nan":
        scores[torch.rand(9, 12) < 0.4] = math.nan
    elif kind == "infinite":
        scores[torch.rand(9, 12) < 0.4] = -math.inf
        scores[torch.rand(9, 12) < 0.2] = math.inf
    exclude = Csr.from_torch((torch.rand(9, 12) < 0.3).float())
    _assert_ranked(rank_scores(scores, k), scores, k)
    _assert_ranked(rank_scores(scores, k, exclude=exclude), scores, k, exclude)


def test_everything_excluded():
    scores, ids = rank_scores(torch.randn(2, 3), 2, exclude=Csr.from_torch(torch.ones(2, 3)))
    assert ids.tolist() == [[-1, -1]] * 2
    assert scores.tolist() == [[-math.inf] * 2] * 2


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _exact(query, items, k, bias=None, exclude=None):
    """The ranking of the product in float64, on the CPU."""
    scores = query.double().cpu() @ items.double().cpu().T + (0 if bias is None else bias.double().cpu())
    scores, ids = rank_scores(scores.to(query.device), k, exclude=exclude)
    return scores.to(query.dtype), ids


def _assert_exact(query, items, k, **options):
    expected = _exact(query, items, k, options.get("bias"), options.get("exclude"))
    for precision in ("float32", "bf16"):
        scores, ids = rank_topk(query, items, k, precision=precision, **options)
        assert torch.equal(ids, expected[1]), precision
        torch.testing.assert_close(scores, expected[0], equal_nan=True)
        assert_same_prepared((scores, ids), query, items, k, precision=precision, **options)


def assert_same_prepared(expected, query, items, k, bias=None, precision="float32", **options):
    """The same bits, however the items come."""
    prepared = prepare_items(items, bias, precision=precision)
    result = rank_topk(query, prepared, k, **options)
    assert torch.equal(result[1], expected[1])
    assert torch.equal(result[0].nan_to_num(7e4), expected[0].nan_to_num(7e4))


def test_prepared_items_serve_any_number_of_calls(native):
    query, items, bias = torch.randn(40, 24), torch.randn(3000, 24), torch.randn(3000)
    for precision in ("float32", "bf16"):
        prepared = prepare_items(items, bias, precision=precision)
        assert isinstance(prepared, PreparedItems)
        assert (prepared.parts[2].numel() > 0) == (precision == "bf16")
        for first, count, k in ((0, 1, 5), (3, 17, 20), (0, 40, 3000)):
            expected = rank_topk(query[first : first + count], items, k, bias=bias)
            assert all(map(torch.equal, rank_topk(query[first : first + count], prepared, k), expected))
        with use_reference():
            torch.testing.assert_close(rank_topk(query, prepared, 9)[1], rank_topk(query, items, 9, bias=bias)[1])
    assert rank_topk(query, prepare_items(items[:0]), 2)[1].tolist() == [[-1, -1]] * 40


def test_items_changed_after_preparing_are_refused():
    items = torch.randn(30, 4)
    prepared = prepare_items(items)
    with torch.no_grad():
        items[3] += 1
    with pytest.raises(ValueError, match="items must not be changed after prepare_items"):
        rank_topk(torch.randn(2, 4), prepared, 3)


def test_prepared_items_and_options_that_contradict_them():
    query, items = torch.randn(2, 4), torch.randn(30, 4)
    with pytest.raises(ValueError, match="bias must be left out where items are prepared"):
        rank_topk(query, prepare_items(items), 3, bias=torch.zeros(30))
    with pytest.raises(ValueError, match="precision must be that of the prepared items .'float32'."):
        rank_topk(query, prepare_items(items, precision="float32"), 3, precision="bf16")
    with pytest.raises(ValueError, match="prepare_items: bias must have 30 elements, got 29"):
        prepare_items(items, torch.zeros(29))
    with pytest.raises(TypeError, match="items must have the dtype of query"):
        rank_topk(query.double(), prepare_items(items), 3)
    with pytest.raises(TypeError, match="prepare_items: items must be a tensor, got list"):
        prepare_items([[1.0]])


def test_parts_of_other_items_are_refused(native):
    query, items = torch.randn(2, 4), torch.randn(30, 4)
    parts = prepare_items(items[:20]).parts
    with pytest.raises(RuntimeError, match="prepared items are not those of these items"):
        torch.ops.dmrec_ext.rank_topk(query, items, 3, None, None, None, False, *parts)
    with pytest.raises(RuntimeError, match="give all parts of prepared items, or none"):
        torch.ops.dmrec_ext.rank_topk(query, items, 3, None, None, None, False, parts[0])


def test_preparing_items_is_registered(native):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for bf16 in (False, True):
            arguments = (torch.randn(9, 4).to(dtype), torch.randn(9).to(dtype), bf16)
            torch.library.opcheck(torch.ops.dmrec_ext._prepare_items.default, arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size", [(1, 1, 1, 1), (5, 30, 4, 7), (3, 1023, 33, 20), (2, 1025, 64, 1000), (520, 2048, 8, 5)]
)
def test_rank_topk_is_the_ranking_in_float64(size, dtype, native):
    users, n_items, width, k = size
    query, items, bias = (torch.randn(s).to(dtype) for s in ((users, width), (n_items, width), (n_items,)))
    exclude = Csr.from_torch((torch.rand(users, n_items) < 0.1).float())
    _assert_exact(query, items, k)
    _assert_exact(query, items, k, bias=bias, exclude=exclude)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(0, 8), st.integers(0, 3000), st.integers(0, 40), st.integers(1, 60)),
    spread=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    seed=st.integers(0, 2**31),
)
def test_rank_topk_at_random(size, spread, seed):
    """Items that differ by less than a product can tell among them."""
    users, n_items, width, k = size
    torch.manual_seed(seed)
    query = torch.randn(users, width)
    items = torch.randn(1, width) + spread * torch.randn(n_items, width)
    ids = rank_topk(query, items, k)[1]
    if ids.numel() and not NATIVE_ABSENT:
        scores = (query.cpu().double()[:, None] * items.cpu().double()).sum(2)  # not a product: alike items score alike
        assert torch.equal(ids.cpu(), rank_scores(scores, k)[1])


@pytest.mark.parametrize("k", [1, 32, 33, 128, 129, 600])
@pytest.mark.parametrize("n_items", [63, 64, 65, 255, 257, 1025, 3000])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 0.0])
def test_the_first_threshold_loses_nothing(n_items, k, spread, native):
    """Around the numbers of columns and of results where it is set in another way; the best come first, last, anywhere;
    of some users nearly all of the first tile is excluded; with scores that products in bfloat16 do not tell apart."""
    query = 1 + spread * torch.randn(4, 24)
    items = 1 + spread * torch.randn(n_items, 24)
    order = (items @ query[0]).argsort()
    excluded = torch.rand(4, n_items) < torch.tensor([0.0, 0.1, 0.99, 1.0])[:, None]
    excluded[:, 1024:] = False
    exclude = Csr.from_torch(excluded.float())
    for arranged in (items, items[order], items[order.flip(0)]):
        _assert_exact(query, arranged, k, exclude=exclude)


@pytest.mark.parametrize("n_items", [100, 5000])
def test_equal_scores_fill_no_buffer(n_items, native):
    """All items alike: the ids ascend, whatever the number of ties."""
    query, items = torch.randn(3, 16), torch.randn(1, 16).expand(n_items, 16)
    assert torch.equal(rank_topk(query, items, 50)[1], torch.arange(50).expand(3, 50))


ALL_OF_MORE = pytest.param(1500, marks=pytest.mark.cpu_only("the kernels for CUDA give 1,024 at most"))


@pytest.mark.parametrize("n_items", [1000, ALL_OF_MORE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unbounded_numbers_rank_as_they_should(dtype, n_items, native):
    """NaN, infinities and norms that overflow, in users, items and bias."""
    query, items, bias = (torch.randn(s, dtype=dtype) for s in ((6, 5), (n_items, 5), (n_items,)))
    huge = torch.finfo(dtype).max / 8
    items[3, 1], items[700, 0], items[701, 2], items[-100] = math.nan, math.inf, -math.inf, huge
    bias[10], bias[-200], bias[11] = math.inf, -math.inf, math.nan
    query[1, 2], query[2] = math.nan, huge
    exclude = Csr.from_torch((torch.rand(6, n_items) < 0.1).float())
    scores = query.double() @ items.double().T + bias.double()
    expected = rank_scores(scores, n_items, exclude=exclude)
    result = rank_topk(query, items, n_items, bias=bias, exclude=exclude)
    if dtype == torch.float32:  # in float64 sums of huge products depend on their order
        assert torch.equal(result[1], expected[1])
    assert torch.equal(result[0].isnan(), expected[0].isnan())


def test_what_underflows_ranks_right(native):
    for query, items in (
        (torch.tensor([[4e-41]]), torch.arange(1.0, 2001)[:, None] * 1e12),
        (torch.randn(4, 16) * 1e-39, torch.randn(3000, 16) * 1e9),
        (torch.randn(4, 16) * 1e10, torch.randn(3000, 16) * 1e-41),
    ):
        _assert_exact(query, items, 10)
    query = torch.randn(4, 64).double() * 1e-170
    items = (torch.randn(1, 64) + 1e-15 * torch.randn(5000, 64)).double() * 1e140
    assert torch.equal(rank_topk(query, items, 10)[1], rank_topk(query, items, 1000)[1][:, :10])


def test_rounded_float32_products_are_allowed_for(native):
    query, items = torch.randn(9, 40), torch.randn(3000, 40)
    plain = rank_topk(query, items, 20)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert _float32_products_are_rounded("cpu")
        assert not _float32_products_are_rounded("cuda")  # its bound covers TF32
        assert all(map(torch.equal, rank_topk(query, items, 20), plain))
    finally:
        torch.set_float32_matmul_precision(before)
    assert not _float32_products_are_rounded("cpu")
    setting = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # torch's newer way, which bars the older one
        assert _float32_products_are_rounded("cpu")
        assert all(map(torch.equal, rank_topk(query, items, 20), plain))
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = setting


@pytest.mark.parametrize("users", [2, 9])  # scored one by one, and filtered
@pytest.mark.parametrize("kind", ["distinct", "ties", "nan", "infinite"])
def test_items_behind_the_least_score_are_left_out(kind, users, native):
    items = torch.randint(-2, 3, (5000, 6)).float() if kind == "ties" else torch.randn(5000, 6)
    if kind in ("nan", "infinite"):
        items[torch.rand(5000) < 0.4, 0] = math.nan if kind == "nan" else -math.inf
    query, bias = torch.randn(users, 6).abs(), torch.zeros(5000)
    exclude = Csr.from_torch((torch.rand(users, 5000) < 0.2).float())
    whole = rank_topk(query, items, 4000, bias=bias, exclude=exclude, exact_scores=True)
    for place in (0, 7, 19, 20, 40, 3500):  # of a score that is asked for, at the least
        at_least = whole[0][:, place].contiguous()
        at_least[0] = math.nan  # asks for everything
        expected = [each[:, :20].clone() for each in whole]
        for b in range(1, users):
            behind = ~(whole[0][b, :20] >= at_least[b]) & ~at_least[b].isnan()
            expected[0][b, behind], expected[1][b, behind] = -math.inf, -1
        for precision in ("float32", "bf16"):
            options = {"precision": precision, "exact_scores": True, "at_least": at_least}
            for ranked in (items, prepare_items(items, bias, precision=precision)):
                found = rank_topk(query, ranked, 20, exclude=exclude, **options)
                assert torch.equal(found[1], expected[1])
                assert torch.equal(found[0].nan_to_num(7e4), expected[0].nan_to_num(7e4))
    with use_reference():
        found = rank_topk(query, items, 20, exclude=exclude, exact_scores=True, at_least=at_least)
        assert torch.equal(found[1], expected[1])


def test_the_least_score_is_one_of_float64():
    query, items = torch.randn(3, 4), torch.randn(30, 4)
    with pytest.raises(ValueError, match="at_least must have 3 elements in float64, got 2 in torch.float64"):
        rank_topk(query, items, 3, at_least=torch.zeros(2).double())
    with pytest.raises(ValueError, match="at_least must have 3 elements in float64, got 3 in torch.float32"):
        rank_topk(query, items, 3, at_least=torch.zeros(3))
    with pytest.raises(TypeError, match="at_least must be a tensor, got float"):
        rank_topk(query, items, 3, at_least=0.5)


def test_the_same_bits_for_any_batch_and_thread_count(native):
    threads = torch.get_num_threads()
    query, items = torch.randn(600, 48), torch.randn(9000, 48)
    whole = rank_topk(query, items, 20)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert all(map(torch.equal, rank_topk(query, items, 20), whole))
            assert all(map(torch.equal, rank_topk(query, items, 20, precision="bf16"), whole))
            few = rank_topk(query[:100], items, 20)  # one block of users: threads share the items
            assert all(torch.equal(p, w[:100]) for p, w in zip(few, whole, strict=True))
    finally:
        torch.set_num_threads(threads)
    for size in (1, 2, 7):
        for start in range(0, 70, size):
            part = rank_topk(query[start : start + size], items, 20)
            assert all(torch.equal(p, w[start : start + size]) for p, w in zip(part, whole, strict=True))


def test_layouts_and_leaves(native):
    query, items = torch.randn(8, 30)[:, ::2], torch.randn(15, 2000).T
    plain = rank_topk(query.contiguous(), items.contiguous(), 9)
    result = rank_topk(query.requires_grad_(), items.requires_grad_(), 9)
    assert all(map(torch.equal, result, plain))
    assert not result[0].requires_grad


@pytest.mark.cpu_only("tiles on a GPU are larger: tests/gpu has the bound there")
def test_no_matrix_of_users_and_items(native):
    query, items = torch.randn(256, 16), torch.randn(60_000, 16)
    assert extra_bytes(lambda: rank_topk(query, items, 10)) < 6 << 20  # all scores: 61 MB


def test_vmap_over_queries():
    query, items = torch.randn(4, 3, 5), torch.randn(30, 5)
    exclude = Csr.from_torch((torch.rand(3, 30) < 0.3).float())
    scores, ids = torch.func.vmap(lambda q: rank_topk(q, items, 4, exclude=exclude))(query)
    for b in range(4):
        one = rank_topk(query[b], items, 4, exclude=exclude)
        assert torch.equal(ids[b], one[1])
        torch.testing.assert_close(scores[b], one[0])


def test_registration(native):
    query, items = torch.randn(4, 6), torch.randn(9, 6)
    exclude = Csr.from_torch((torch.rand(4, 9) < 0.3).float())
    op = torch.ops.dmrec_ext.rank_topk
    torch.library.opcheck(op.default, (query, items, 3))
    torch.library.opcheck(op.default, (query, items, 3, torch.randn(9), exclude.crow, exclude.col, True))
    torch.library.opcheck(op.default, (query, items, 3), {"at_least": torch.zeros(4).double()})
    compiled = torch.compile(rank_topk, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(query, items, 3), rank_topk(query, items, 3)))


@pytest.mark.cpu_only("on a GPU a look at the indices would wait for it; tests/simt has what happens there")
def test_the_raw_operator_reads_nothing_out_of_range(native):
    query, items, op = torch.randn(4, 6), torch.randn(9, 6), torch.ops.dmrec_ext.rank_topk
    for bad in (torch.tensor([0, 9]), torch.tensor([0, -1]), torch.tensor([1, 0])):
        with pytest.raises(RuntimeError, match="rank_topk: col must"):
            op(query, items, 3, None, torch.tensor([0, 2, 2, 2, 2]), bad)


def test_the_raw_operator_checks_k(native):
    with pytest.raises(RuntimeError, match="rank_topk: k must be at least 1"):
        torch.ops.dmrec_ext.rank_topk(torch.randn(4, 6), torch.randn(9, 6), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_reference_ranks_the_product(dtype):
    query, items, bias = torch.randn(5, 4).to(dtype), torch.randn(30, 4).to(dtype), torch.randn(30).to(dtype)
    exclude = Csr.from_torch((torch.rand(5, 30) < 0.3).float())
    scores = torch.nn.functional.linear(query, items, bias)
    with use_reference():
        _assert_ranked(rank_topk(query, items, 7, bias=bias, exclude=exclude), scores, 7, exclude)
        assert rank_topk(query, items, 7)[0].dtype == dtype


def test_input_is_left_alone():
    scores = torch.randn(2, 5, requires_grad=True)
    before = scores.clone()
    result, _ = rank_scores(scores, 2, exclude=Csr.from_torch(torch.ones(2, 5)))
    assert torch.equal(scores, before)
    assert not result.requires_grad


def test_merging_shards_gives_the_ranking_of_the_whole():
    scores = torch.randint(0, 6, (7, 40)).float()
    shards = [rank_scores(scores[:, start : start + 10], 5) for start in range(0, 40, 10)]
    merged_scores = torch.cat([s for s, _ in shards], 1)
    merged_ids = torch.cat([ids + 10 * shard for shard, (_, ids) in enumerate(shards)], 1)
    order = torch.randperm(20)
    result = merge_topk(merged_scores[:, order], merged_ids[:, order], 5)
    whole = rank_scores(scores, 5)
    assert torch.equal(result[0], whole[0])
    assert torch.equal(result[1], whole[1])


def test_merging_skips_padding_and_pads_itself():
    scores, ids = merge_topk(torch.tensor([[-math.inf, 1.0]]), torch.tensor([[-1, 4]]), 3)
    assert ids.tolist() == [[4, -1, -1]]
    assert scores.tolist() == [[1.0, -math.inf, -math.inf]]


def test_devices_must_match():
    meta = torch.zeros(2, 5, device="meta")
    with pytest.raises(ValueError, match="ids must be on the device of scores .meta., got (cpu|cuda)[:0]*"):
        merge_topk(meta, torch.zeros(2, 5, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="items must be on the device of query .meta., got (cpu|cuda)[:0]*"):
        rank_topk(meta, torch.zeros(3, 5), 1)


def test_no_users():
    scores, ids = rank_topk(torch.zeros(0, 3), torch.zeros(5, 3), 2)
    assert scores.shape == ids.shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: rank_scores(x, 0), ValueError, "rank_scores: k must be at least 1, got 0"),
        (lambda x: rank_scores(x, 1.0), TypeError, "rank_scores: k must be an integer, got float"),
        (lambda x: rank_scores(x[0], 1), ValueError, "rank_scores: scores must have 2 dimensions, got 1"),
        (
            lambda x: rank_scores(x, 1, exclude=Csr.from_torch(torch.ones(2, 3))),
            ValueError,
            "rank_scores: exclude must have 4 columns, got 3",
        ),
        (
            lambda x: rank_topk(x, x[:, :3], 1),
            ValueError,
            r"rank_topk: items must have the width of query \(4\), got 3",
        ),
        (
            lambda x: rank_topk(x, x, 1, precision="int8"),
            ValueError,
            "precision must be one of 'auto', 'float32',",
        ),
        (lambda x: merge_topk(x, x, 1), TypeError, "merge_topk: ids must be an int64 tensor, got torch.float32"),
        (
            lambda x: merge_topk(x, x[:1].long(), 1),
            ValueError,
            r"ids must have the shape of scores \(2, 4\), got \(1, 4\)",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(2, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_exact_scores_are_those_of_double(dtype):
    query, items, bias = torch.randn(3, 40).to(dtype), torch.randn(300, 40).to(dtype), torch.randn(300).to(dtype)
    scores, ids = rank_topk(query, items, 7, bias=bias, exact_scores=True)
    right = (query.double() @ items.double().T + bias.double()).cpu().topk(7)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.cpu(), right.values, rtol=1e-13, atol=1e-13)
    assert torch.equal(ids.cpu(), right.indices)
    rounded, same = rank_topk(query, items, 7, bias=bias)
    assert rounded.dtype == dtype
    assert torch.equal(rounded, scores.to(dtype))
    assert torch.equal(same, ids)


@pytest.mark.parametrize("n_parts", [2, 5, 16])
def test_rankings_of_parts_are_that_of_the_whole_although_items_are_nearly_the_same(n_parts):
    query, items = torch.randn(6, 16), torch.randn(12, 16).repeat(17, 1)[:200]
    items += 1e-8 * torch.randn(200, 16)  # scores that float32 does not tell apart, and some that are equal
    exclude = Csr.from_torch((torch.rand(6, 200) < 0.05).float())
    scores, ids = rank_topk(query, items, 20, exclude=exclude, exact_scores=True)
    size, parts = -(-200 // n_parts), []
    for i, seen in enumerate(exclude.split(size)):
        s, found = rank_topk(query, items[i * size : (i + 1) * size], 20, exclude=seen, exact_scores=True)
        parts.append((s, torch.where(found < 0, -1, found + i * size)))
    merged = merge_topk(torch.cat([s for s, _ in parts], 1), torch.cat([found for _, found in parts], 1), 20)
    assert torch.equal(merged[1], ids)
    assert torch.equal(merged[0], scores)

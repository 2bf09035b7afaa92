"""Rankings against a brute-force sort by (score descending, id ascending, NaN last), item by item."""

import math

import pytest
import torch

from dmrec_ext import Csr, merge_topk, rank_scores, rank_topk


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rank_topk_ranks_the_product(dtype):
    query, items, bias = torch.randn(5, 4).to(dtype), torch.randn(30, 4).to(dtype), torch.randn(30).to(dtype)
    exclude = Csr.from_torch((torch.rand(5, 30) < 0.3).float())
    scores = torch.nn.functional.linear(query, items, bias)
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
    with pytest.raises(ValueError, match="ids must be on the device of scores .meta., got cpu"):
        merge_topk(meta, torch.zeros(2, 5, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="items must be on the device of query .meta., got cpu"):
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
        (lambda x: rank_topk(x, x, 1, precision="int8"), ValueError, "precision must be one of 'float32', 'bf16'"),
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

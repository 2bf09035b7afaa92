"""Items are prepared once for queries that come one by one, and again when they have changed."""

import copy
import io

import pytest
import torch
from dmrec.models import ranking
from dmrec.models.ranking import FEW, ItemRanking

from dmrec_ext import Csr, prepare_items, rank_topk


@pytest.fixture
def prepared(monkeypatch):
    """How often items were prepared."""
    count = []
    monkeypatch.setattr(ranking, "prepare_items", lambda *a, **o: count.append(1) or prepare_items(*a, **o))
    return count


def test_items_are_prepared_when_they_come_again(prepared):
    rank, items, bias = ItemRanking(), torch.randn(50, 8), torch.randn(50)
    seen = Csr(torch.tensor([0, 2]), torch.tensor([3, 7]), None, 50)
    for call in range(4):
        query = torch.randn(1, 8)
        result = rank(query, items.detach(), 5, bias=bias, exclude=seen)
        expected = rank_topk(query, items, 5, bias=bias, exclude=seen)
        assert all(map(torch.equal, result, expected))
        assert len(prepared) == min(call, 1)


@pytest.mark.parametrize("change", ["items", "bias"])
def test_what_was_changed_in_place_is_prepared_again(change, prepared):
    rank, items, bias, query = ItemRanking(), torch.randn(50, 8), torch.randn(50), torch.randn(2, 8)
    for _ in range(3):
        rank(query, items, 5, bias=bias)
    (items if change == "items" else bias).neg_()
    for _ in range(3):
        assert torch.equal(rank(query, items, 5, bias=bias)[1], rank_topk(query, items, 5, bias=bias)[1])
    assert len(prepared) == 2


def test_items_made_anew_for_each_call_are_not_prepared(prepared):
    rank, kept = ItemRanking(), []
    for _ in range(5):
        items = torch.randn(50, 8)
        kept.append(items)
        assert torch.equal(rank(items[:1], items, 5)[1], rank_topk(items[:1], items, 5)[1])
    assert not prepared


def test_many_queries_need_nothing_prepared(prepared):
    rank, items = ItemRanking(), torch.randn(50, 8)
    for _ in range(3):
        rank(torch.randn(FEW + 1, 8), items, 5)
    assert not prepared


def test_copies_of_a_model_do_not_carry_items():
    rank, items = ItemRanking(), torch.randn(50, 8)
    for _ in range(2):
        rank(items[:1], items, 5)
    assert rank._kept is not None
    assert copy.deepcopy(rank)._kept is None
    file = io.BytesIO()
    torch.save(rank, file)
    assert len(file.getvalue()) < 2000

"""Metrics and full ranking against their definitions, user by user."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from dmrec.errors import DmrecError
from dmrec.eval import ranking
from dmrec.eval.metrics import METRICS, hits, parse_metric
from dmrec.eval.ranking import evaluate

from dmrec_ext import Csr, rank_scores


def _by_hand(ranked, wanted, k):
    hit = [1.0 if item in wanted else 0.0 for item in ranked[:k]]
    dcg = sum(h / math.log2(r + 2) for r, h in enumerate(hit))
    ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted))))
    return {"recall": sum(hit) / len(wanted), "ndcg": dcg / ideal}


@pytest.mark.parametrize("k", [1, 3, 10])
def test_are_their_definitions(k):
    rng = np.random.default_rng(0)
    held_out = sp.csr_matrix(rng.random((40, 25)) < 0.2)
    held_out = held_out[np.diff(held_out.indptr) > 0]
    ids = torch.from_numpy(np.array([rng.permutation(25)[:10] for _ in range(held_out.shape[0])]))
    ids[3, 6:] = -1
    wanted = Csr.from_scipy(held_out)
    hit, count = hits(ids, wanted), wanted.crow.diff()
    for name, metric in METRICS.items():
        values = metric(hit, count, k)
        for user, value in enumerate(values.tolist()):
            right = _by_hand(ids[user].tolist(), set(held_out[user].indices.tolist()), k)[name]
            assert value == pytest.approx(right, abs=1e-12)


class FixedScores:
    def __init__(self, scores):
        self.scores = scores

    def rank(self, x, users, k, exclude):
        return rank_scores(self.scores[users], k, exclude=exclude)


def _scores_and_splits():
    rng = np.random.default_rng(1)
    everything = rng.random((50, 30))
    train, held_out = sp.csr_matrix(everything < 0.2), sp.csr_matrix(everything > 0.9)
    return torch.from_numpy(rng.random((50, 30))), Csr.from_scipy(train), Csr.from_scipy(held_out)


def test_full_ranking_masks_training_items_and_skips_users_without_held_out_ones():
    scores, train, held_out = _scores_and_splits()
    result = evaluate(FixedScores(scores), train, held_out, ["recall@5", "ndcg@5"])
    expected = {"recall": [], "ndcg": []}
    seen, wanted = train.to_dense(), held_out.to_dense()
    for user in range(50):
        if wanted[user].any():
            order = torch.argsort(scores[user] - 10 * seen[user], descending=True).tolist()
            mine = _by_hand(order, set(wanted[user].nonzero().flatten().tolist()), 5)
            for name, value in mine.items():
                expected[name].append(value)
    assert result.n_users == len(expected["recall"]) < 50
    assert result.means["recall@5"] == pytest.approx(np.mean(expected["recall"]), abs=1e-12)
    assert result.means["ndcg@5"] == pytest.approx(np.mean(expected["ndcg"]), abs=1e-12)


def test_blocks_of_users_do_not_change_the_ranking(monkeypatch):
    scores, train, held_out = _scores_and_splits()
    whole = evaluate(FixedScores(scores), train, held_out, ["recall@5"]).means["recall@5"]
    monkeypatch.setattr(ranking, "USERS_PER_BLOCK", 7)
    assert evaluate(FixedScores(scores), train, held_out, ["recall@5"]).means["recall@5"] == pytest.approx(whole)


def test_nobody_to_evaluate():
    scores, train, _ = _scores_and_splits()
    nothing = Csr.from_scipy(sp.csr_matrix((50, 30)))
    assert evaluate(FixedScores(scores), train, nothing, ["recall@5"]).n_users == 0


@pytest.mark.parametrize(("name", "message"), [("recall", "write it like recall@20"), ("mrr@5", "'mrr' is no metric")])
def test_unknown_metrics(name, message):
    with pytest.raises(DmrecError, match=message):
        parse_metric(name)
    assert parse_metric("ndcg@7") == ("ndcg", 7)

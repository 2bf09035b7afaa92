"""Metrics and full ranking against their definitions, user by user."""

import itertools
import json
import math

import dmrec
import numpy as np
import pytest
import scipy.sparse as sp
import tiny
import torch
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.eval import ranking
from dmrec.eval.lists import Catalogue, diversity, gini, novelty
from dmrec.eval.metrics import LINEAR, METRICS, expected_hits, hits, known_metrics, parse_metric, register_metric
from dmrec.eval.ranking import evaluate, union
from dmrec.models.base import Model, TrainingData
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.resolve import resolve
from dmrec.training.trainer import train as train_run

from dmrec_ext import Csr, rank_scores


def _by_hand(ranked, wanted, k):
    hit = [1.0 if item in wanted else 0.0 for item in ranked[:k]]
    dcg = sum(h / math.log2(r + 2) for r, h in enumerate(hit))
    ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted))))
    found = [sum(hit[: r + 1]) / (r + 1) for r in range(len(hit)) if hit[r]]
    return {
        "recall": sum(hit) / len(wanted),
        "precision": sum(hit) / k,
        "hit": max(hit),
        "ndcg": dcg / ideal,
        "mrr": max((h / (r + 1) for r, h in enumerate(hit)), default=0),
        "map": sum(found) / len(wanted),
    }


@pytest.mark.parametrize("k", [1, 3, 10])
def test_are_their_definitions(k):
    rng = np.random.default_rng(0)
    held_out = sp.csr_matrix(rng.random((40, 25)) < 0.2)
    held_out = held_out[np.diff(held_out.indptr) > 0]
    ids = torch.from_numpy(np.array([rng.permutation(25)[:10] for _ in range(held_out.shape[0])]))
    ids[3, 6:] = -1
    wanted = Csr.from_scipy(held_out)
    hit, count = hits(ids, wanted), wanted.crow.diff()
    assert set(METRICS) == set(_by_hand([1], {1}, 1))
    for name, metric in METRICS.items():
        values = metric(hit, count, k)
        for user, value in enumerate(values.tolist()):
            right = _by_hand(ids[user].tolist(), set(held_out[user].indices.tolist()), k)[name]
            assert value == pytest.approx(right, abs=1e-12)


class FixedScores(Model):
    def __init__(self, scores):
        super().__init__()
        self.register_buffer("scores", scores)

    def rank(self, batch, k, exclude=None):
        assert not self.training
        return rank_scores(self.scores[batch.ids], k, exclude=exclude)


def _scores_and_splits():
    rng = np.random.default_rng(1)
    everything = rng.random((50, 30))
    train, held_out = sp.csr_matrix(everything < 0.2), sp.csr_matrix(everything > 0.9)
    return torch.from_numpy(rng.random((50, 30))), Csr.from_scipy(train), Csr.from_scipy(held_out)


def test_full_ranking_masks_training_items_and_skips_users_without_held_out_ones():
    scores, train, held_out = _scores_and_splits()
    result = evaluate(FixedScores(scores), TrainingData(train), held_out, ["recall@5", "ndcg@5"])
    expected = {name: [] for name in METRICS}
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


@pytest.mark.parametrize("size", [1, 2, 7, 49])
def test_blocks_of_users_do_not_change_a_bit(monkeypatch, size):
    scores, train, held_out = _scores_and_splits()
    metrics = ["auc", *(f"{name}@{k}" for name in known_metrics() if name != "auc" for k in (1, 5, 30))]
    whole = evaluate(FixedScores(scores), TrainingData(train), held_out, metrics).means
    monkeypatch.setattr(ranking, "USERS_PER_BLOCK", size)
    assert evaluate(FixedScores(scores), TrainingData(train), held_out, metrics).means == whole


def orders_of(ranking, tied):
    """All rankings that differ in the order of neighbours of one group."""
    groups = [list(part) for _, part in itertools.groupby(ranking, key=lambda item: tied[item])]
    return [list(itertools.chain(*each)) for each in itertools.product(*map(itertools.permutations, groups))]


@pytest.mark.parametrize("excluded", [(), (1, 4)])
def test_means_over_the_orders_of_tied_items(excluded):
    tied = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    ranking = [item for item in (5, 0, 1, 2, 3, 4, 6) if item not in excluded]
    wanted = torch.zeros(1, 7)
    wanted[0, [2, 3, 6]] = 1
    held_out, count, out = Csr.from_torch(wanted), torch.tensor([3]), torch.zeros(1, 7)
    out[0, list(excluded)] = 1
    for k in range(1, 8):
        ids = torch.tensor([(ranking + [-1] * 7)[:k]])
        expected = expected_hits(ids, held_out, tied, Csr.from_torch(out) if excluded else None)
        for name in LINEAR:
            by_hand = np.mean([_by_hand(order, {2, 3, 6}, k)[name] for order in orders_of(ranking, tied)])
            assert METRICS[name](expected, count, k).item() == pytest.approx(by_hand, abs=1e-12)


def test_a_tuple_of_several_items_by_its_formula():
    """G items after P others: Hit = m / G, NDCG = sum_{i <= m} 1 / log2(P + i + 1) / G, m = min(G, max(0, k - P))."""
    one = torch.ones(1, dtype=torch.int64)
    for size, before, k in itertools.product((1, 2, 5), (0, 3), (1, 4, 10)):
        tied = torch.cat([torch.zeros(size, dtype=torch.int64), torch.arange(1, 12)])
        n = len(tied)
        ids = torch.tensor([[*range(size, size + before), *range(size), *range(size + before, n)][:k]])
        wanted = torch.zeros(1, n)
        wanted[0, 0] = 1
        expected = expected_hits(ids, Csr.from_torch(wanted), tied)
        there = min(size, max(0, k - before))
        ndcg = sum(1 / math.log2(before + i + 1) for i in range(1, there + 1)) / size
        assert METRICS["recall"](expected, one, k).item() == pytest.approx(there / size)
        assert METRICS["ndcg"](expected, one, k).item() == pytest.approx(ndcg)


@pytest.mark.parametrize("of_each", ["some", "one"])
def test_equal_trec_eval(of_each):
    """1,000 random cases through ir-measures, with some held-out items or one, as where the last one is left out.

    trec_eval breaks ties by document id, so it is handed ranks as scores.
    """
    ir_measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
    rng = np.random.default_rng(3)
    names = {"recall": "R", "precision": "P", "hit": "Success", "ndcg": "nDCG", "mrr": "RR", "map": "AP"}
    cutoffs = (1, 3, 10)
    measures = {
        f"{name}@{k}": ir_measures.parse_measure(f"{theirs}@{k}") for name, theirs in names.items() for k in cutoffs
    }
    n_users, n_items, depth = 1000, 40, 10
    drawn = rng.random((n_users, n_items))
    held_out = sp.csr_matrix(drawn < rng.uniform(0.01, 0.4, (n_users, 1)))
    if of_each == "one":
        held_out = sp.csr_matrix((drawn == drawn.min(1, keepdims=True)) & (drawn < 0.02))
    ids = torch.from_numpy(np.array([rng.permutation(n_items)[:depth] for _ in range(n_users)]))
    ids[torch.from_numpy(rng.random(n_users) < 0.1), 6:] = -1  # fewer candidates than ranks
    users = np.flatnonzero(np.diff(held_out.indptr))
    assert 0 < len(users) < n_users  # some have nothing held out
    judged = [ir_measures.Qrel(str(u), str(i), 1) for u in users for i in held_out[u].indices]
    run = [
        ir_measures.ScoredDoc(str(u), str(i), depth - rank)
        for u in users
        for rank, i in enumerate(ids[u].tolist())
        if i >= 0
    ]
    theirs = {(str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc(measures.values(), judged, run)}
    wanted = Csr.from_scipy(held_out[users])
    hit, count = hits(ids[users], wanted), wanted.crow.diff()
    for name, measure in measures.items():
        kind, k = parse_metric(name)
        mine = METRICS[kind](hit, count, k)
        right = torch.tensor([theirs[str(measure), str(u)] for u in users], dtype=torch.float64)
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-12, msg=name)


def test_coverage_is_the_share_of_items_shown_to_anyone():
    scores, train, held_out = _scores_and_splits()
    result = evaluate(FixedScores(scores), TrainingData(train), held_out, ["coverage@1", "coverage@30", "recall@5"])
    users = result.users
    first = FixedScores(scores).eval().rank(TrainingData(train).users(users), 1, train.rows(users))[1]
    assert result.means["coverage@1"] == len(first.unique()) / 30
    assert result.means["coverage@30"] == 1
    assert set(result.values) == {"recall@5"}


def test_means_of_groups_make_the_mean():
    scores, train, held_out = _scores_and_splits()
    result = evaluate(FixedScores(scores), TrainingData(train), held_out, ["recall@5", "map@10"])
    many = train.crow.diff()[result.users] > 6
    assert 0 < many.sum() < len(many)
    for name, mean in result.means.items():
        both = [result.means_of(chosen)[name] * int(chosen.sum()) for chosen in (many, ~many)]
        assert sum(both) / result.n_users == pytest.approx(mean, abs=1e-15)
    assert result.means_of(torch.zeros_like(many)) == {"recall@5": 0, "map@10": 0}


def test_nobody_to_evaluate():
    scores, train, _ = _scores_and_splits()
    nothing = Csr.from_scipy(sp.csr_matrix((50, 30)))
    assert evaluate(FixedScores(scores), TrainingData(train), nothing, ["recall@5"]).n_users == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recall", "write it like recall@20"),
        ("auc@5", "write it like recall@20, or auc"),
        ("mmr@5", "'mmr' is not a metric"),
    ],
)
def test_unknown_metrics(name, message):
    with pytest.raises(DmrecError, match=message):
        parse_metric(name)
    assert parse_metric("ndcg@7") == ("ndcg", 7)


def _lists(seed=0, k=6):
    rng = np.random.default_rng(seed)
    train = sp.csr_matrix(rng.random((40, 25)) < 0.15)
    ids = np.array([rng.permutation(25)[:k] for _ in range(40)])
    ids[3, 2:], ids[4, 1:], ids[5, :] = -1, -1, -1
    return train, ids


def test_novelty_is_the_information_of_what_is_shown():
    train, ids = _lists()
    share = np.maximum(np.asarray(train.sum(axis=0)).ravel(), 1) / 40
    right = [np.mean([-math.log2(share[i]) for i in row if i >= 0]) if (row >= 0).any() else 0 for row in ids]
    found = novelty(torch.from_numpy(ids), Catalogue(TrainingData(Csr.from_scipy(train))))
    np.testing.assert_allclose(found, right, rtol=1e-12)


def test_diversity_is_the_mean_distance_of_pairs():
    train, ids = _lists()
    users = [set(train[:, i].nonzero()[0]) for i in range(25)]

    def distance(i, j):
        size = math.sqrt(len(users[i]) * len(users[j]))
        return 1 - (len(users[i] & users[j]) / size if size else 0)

    right = []
    for row in ids:
        pairs = list(itertools.combinations([i for i in row if i >= 0], 2))
        right.append(np.mean([distance(i, j) for i, j in pairs]) if pairs else 0)
    found = diversity(torch.from_numpy(ids), Catalogue(TrainingData(Csr.from_scipy(train))))
    np.testing.assert_allclose(found, right, atol=1e-12)


def test_gini_is_the_mean_difference_of_counts():
    counts = torch.tensor([0, 3, 1, 1, 7])
    pairs = (counts[:, None] - counts[None, :]).abs().double().mean() / (2 * counts.double().mean())
    assert gini(counts) == pytest.approx(pairs.item())
    assert gini(torch.full((9,), 4)) == pytest.approx(0)
    assert gini(torch.zeros(9)) == 0
    assert gini(torch.tensor([0] * 99 + [5])) == pytest.approx(0.99)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    scores, train, held_out = _scores_and_splits()
    result = evaluate(FixedScores(scores), TrainingData(train), held_out, ["auc", "recall@5"])
    assert result.hits.shape == (result.n_users, 5)  # not of all items
    deep = evaluate(FixedScores(scores), TrainingData(train), held_out, ["auc", "ndcg@50"])  # of 30 items
    assert deep.means["auc"] == result.means["auc"]
    seen, wanted = train.to_dense() > 0, held_out.to_dense() > 0
    for user, value in zip(result.users.tolist(), result.values["auc"].tolist(), strict=True):
        mine = scores[user][wanted[user] & ~seen[user]]
        others = scores[user][~wanted[user] & ~seen[user]]
        assert value == pytest.approx((mine[:, None] > others[None, :]).double().mean().item(), abs=1e-12)


def test_a_metric_of_ones_own():
    @register_metric("last")
    def last(hit, n_held_out, k):
        return hit[:, k - 1]

    try:
        scores, train, held_out = _scores_and_splits()
        found = evaluate(FixedScores(scores), TrainingData(train), held_out, ["last@2", "precision@1", "precision@2"])
        means = found.means
        assert means["last@2"] == pytest.approx(2 * means["precision@2"] - means["precision@1"])
        for name in ("last", "coverage", "auc", "a b"):
            with pytest.raises(DmrecError, match=f"'{name}' cannot name a metric"):
                register_metric(name)
    finally:
        del METRICS["last"]


def test_validation_items_may_be_left_out_of_the_ranking():
    scores, train, held_out = _scores_and_splits()
    taken = train.to_dense() + held_out.to_dense()
    valid = (torch.from_numpy(np.random.default_rng(2).random((50, 30)) < 0.2) & (taken == 0)).float()
    further = Csr.from_torch(valid)._replace(values=None)
    both = union(train, further)
    assert torch.equal(both.to_dense() > 0, (train.to_dense() + valid) > 0)
    lower = torch.where(valid > 0, -1.0, scores)
    for seen in (True, False):
        found = evaluate(
            FixedScores(scores), TrainingData(train), held_out, ["recall@5", "auc"], exclude=further, exclude_seen=seen
        )
        masked = evaluate(FixedScores(lower), TrainingData(train), held_out, ["recall@5"], exclude_seen=seen)
        assert found.means["recall@5"] == masked.means["recall@5"]


def test_the_option_reaches_training_and_evaluation(tmp_path, capsys):
    data = tiny.make(tmp_path / "data")
    runs = {}
    for name, options in (("a", []), ("b", ["evaluation.exclude_validation=true"])):
        config = resolve(build_config(apply_overrides(recipe("ease"), options)), data)
        runs[name] = train_run(config, data, tmp_path / name)["test"]
        with pytest.raises(SystemExit):
            main(["evaluate", str(tmp_path / name), "--json"])
        printed = json.loads(capsys.readouterr().out)
        assert {metric: printed[metric] for metric in runs[name]} == runs[name]
        assert dmrec.evaluate(dmrec.load(tmp_path / name))["recall@20"] == runs[name]["recall@20"]
    assert runs["b"]["recall@5"] > runs["a"]["recall@5"]

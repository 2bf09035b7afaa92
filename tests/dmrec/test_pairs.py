"""Pairs of interactions and items that their users have none with."""

import numpy as np
import scipy.sparse as sp
import torch
from dmrec.models.graph import pairs
from dmrec.models.graph.pairs import PairSampler

from dmrec_ext import Csr

DENSE = (np.random.default_rng(3).random((7, 5)) < 0.6).astype(np.float32)
DENSE[:, 0], DENSE[:, 4] = 1, 0  # everybody has an item, and a negative
DENSE[2, 1:4] = 1  # and somebody all but one
X = Csr.from_scipy(sp.csr_matrix(DENSE))._replace(values=None)
HAS = torch.from_numpy(DENSE) == 1


def test_by_users_each_user_is_drawn_as_often():
    user, item, negative = PairSampler(X, by="users").batch(torch.arange(7).repeat(200))[:3]
    assert torch.bincount(user, minlength=7).tolist() == [200] * 7
    assert bool(HAS[user, item].all())
    assert not bool(HAS[user, negative].any())
    of_third = torch.bincount(item[user == 2], minlength=5)[HAS[2]]
    assert bool((of_third > 0.6 * 200 / len(of_third)).all())


def test_several_negatives_are_not_the_users():
    user, _, negative = PairSampler(X, negatives=90).batch(torch.arange(X.nnz))[:3]
    assert negative.shape == (X.nnz, 90)
    assert not bool(HAS[user[:, None], negative].any())  # also for whom twenty draws in a row are likely to miss


def test_who_has_everything_keeps_what_was_drawn():
    everything = Csr.from_scipy(sp.csr_matrix(np.ones((2, 3), dtype=np.float32)))
    assert PairSampler(everything).batch(torch.arange(6)).negative.shape == (6,)


def test_users_and_items_once():
    batch = PairSampler(X, distinct=True).batch(torch.arange(X.nnz))
    assert torch.equal(batch.users, batch.user.unique())
    assert torch.equal(batch.items, batch.item.unique())
    assert PairSampler(X).batch(torch.arange(3)).users is None


def test_a_table_of_pairs_changes_no_draw(monkeypatch):
    drawn = []
    for table in (pairs.TABLE, 0):
        monkeypatch.setattr(pairs, "TABLE", table)
        sampler = PairSampler(X, "users", negatives=90)
        assert (sampler.table is None) == (table == 0)
        torch.manual_seed(0)
        drawn.append(sampler.batch(torch.arange(X.nnz)))
    assert all(torch.equal(a, b) for a, b in zip(drawn[0][:3], drawn[1][:3], strict=True))

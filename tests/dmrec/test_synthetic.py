"""The synthetic catalogue: its stated properties, and that a model learns from it."""

import numpy as np
import pytest
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset
from dmrec.data.synthetic import VECTORS, make_catalogue


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return make_catalogue(tmp_path_factory.mktemp("data") / "c", n_users=600, n_items=2000, held_out_users=100)


def test_popularity_is_a_power_law(catalogue):
    counts = np.sort(np.asarray(catalogue.matrix("train").sum(0)).ravel())[::-1]
    assert counts[:20].sum() > 0.08 * counts.sum()  # 1 % of the items
    head = counts[:200]
    slope = np.polyfit(np.log(np.arange(1, 201)), np.log(head), 1)[0]
    assert -1.2 < slope < -0.4


def test_only_some_users_are_held_out(catalogue):
    for split in (catalogue.matrix("valid"), catalogue.matrix("test")):
        per_user = np.asarray(split.sum(1)).ravel()
        assert per_user[:100].min() > 0
        assert per_user[100:].sum() == 0
    assert np.asarray(catalogue.matrix("train").sum(1)).ravel().min() > 0


def test_vectors_tell_tastes(catalogue):
    """A user's own items lie nearer than others."""
    vectors = catalogue.vectors(VECTORS)
    np.testing.assert_allclose(np.linalg.norm(vectors.items, axis=1), 1, rtol=1e-5)
    own, others = [], []
    for user in range(200):
        similarity = vectors.items @ vectors.users[user]
        own.append(similarity[catalogue.matrix("train")[user].indices].mean())
        others.append(similarity.mean())
    assert np.mean(own) > np.mean(others) + 0.15


def test_the_seed_decides(tmp_path):
    made = [make_catalogue(tmp_path / str(i), n_users=20, n_items=50, seed=s) for i, s in enumerate((3, 3, 4))]
    checksums = [dataset.fingerprint(VECTORS) for dataset in made]
    assert checksums[0] == checksums[1] != checksums[2]


def test_command(tmp_path):
    with pytest.raises(SystemExit) as done:
        main(["data", "synthetic", "--users", "30", "--items", "90", "--out", str(tmp_path / "s")])
    assert done.value.code == 0
    assert (open_dataset(tmp_path / "s").n_users, open_dataset(tmp_path / "s").n_items) == (30, 90)

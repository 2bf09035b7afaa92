"""Filters and the random split."""

import numpy as np
import pytest
import scipy.sparse as sp
from dmrec.data.sources.importer import make_dataset, read_splits
from dmrec.data.sources.interactions import Ids, Interactions
from dmrec.data.sources.preparation import largest_core, prepare
from dmrec.data.sources.source import Source
from dmrec.data.splits import split_per_user
from dmrec.errors import DmrecError


def _random(n_users=60, n_items=40, density=0.3, seed=0):
    return sp.csr_matrix(np.random.default_rng(seed).random((n_users, n_items)) < density)


def test_split_is_a_partition_of_three_to_one_to_one():
    matrix = _random()
    splits, moved = split_per_user(matrix, seed=1)
    total = sum(part.toarray() for part in splits.values())
    np.testing.assert_array_equal(total, matrix.toarray())
    counts = np.diff(matrix.indptr)
    held_out = np.rint(counts * 0.2)
    assert moved == 0
    for name in ("valid", "test"):
        np.testing.assert_array_equal(np.diff(splits[name].indptr), held_out)


def test_split_follows_its_seed():
    first, again, other = (split_per_user(_random(), seed)[0]["test"] for seed in (1, 1, 2))
    assert (first != again).nnz == 0
    assert (first != other).nnz > 0


def test_held_out_items_are_seen_in_training():
    splits, moved = split_per_user(_random(30, 300, 0.02), seed=0)
    seen = splits["train"].sum(0) > 0
    assert moved > 0
    for name in ("valid", "test"):
        assert seen[0, splits[name].indices].all()


@pytest.mark.parametrize("k", [1, 3, 6])
def test_k_core_is_the_largest_such_part(k):
    matrix = _random(50, 50, 0.08)
    core, users, items = largest_core(matrix, k)
    assert core.shape == (len(users), len(items))
    if core.nnz:
        assert np.diff(core.indptr).min() >= k
        assert np.bincount(core.indices).min() >= k
    np.testing.assert_array_equal(core.toarray(), matrix.toarray()[np.ix_(users, items)])
    order = np.random.default_rng(0).permutation(50)  # whatever the order of removal, the same core is left
    assert sorted(order[largest_core(matrix[order], k)[1]]) == list(users)


def test_prepare_reports_what_it_drops():
    user = np.array([1, 1, 1, 2, 2, 2, 3, 1])
    item = np.array([7, 8, 9, 7, 8, 9, 7, 7])
    rating = np.array([5, 4, 3, 3, 5, 5, 2, 4])
    prepared = prepare(Interactions(Ids.of(user), Ids.of(item), rating), k_core=2)
    assert prepared.user_ids == ["1", "2"]
    assert prepared.item_ids == ["7", "8", "9"]
    report = {key: prepared.report[key] for key in ("rows", "below_min_rating", "repeated", "outside_core")}
    assert report == {"rows": 8, "below_min_rating": 1, "repeated": 1, "outside_core": 0}


def test_nothing_left():
    with pytest.raises(DmrecError, match="no interaction is left.*lower --min-rating or --k-core"):
        prepare(Interactions(Ids.of([1]), Ids.of([1]), np.array([1.0])))


@pytest.mark.parametrize(
    ("items_of_user", "message"),
    [
        (2, "for valid: a user needs at least 3 to be in all three splits; lower --min-rating"),
        (6, "for valid: 6 were chosen for validation and test, but their items have no other interaction"),
    ],
)
def test_nothing_left_of_a_random_split(items_of_user, message, tmp_path):
    """Each item has one interaction, so that none can be held out."""
    users = np.repeat(np.arange(3), items_of_user)
    table = Interactions(Ids.of(users), Ids.of(np.arange(len(users))), None)
    with pytest.raises(DmrecError, match=message):
        make_dataset(Source(table, []), tmp_path, name="d", k_core=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_nothing_left_of_a_given_split(kind, tmp_path):
    paths = {split: tmp_path / f"{split}.{kind}" for split in ("train", "valid", "test")}
    for item, (split, path) in enumerate(paths.items()):
        if kind == "csv":
            path.write_text(f"user,item,rating\na,{item},{1 if split == 'valid' else 5}\n")
        else:
            sp.save_npz(path, sp.csr_matrix(np.arange(3)[None] == item) * (split != "valid"))
    with pytest.raises(DmrecError, match="left for valid: its file has none, or only ratings below --min-rating"):
        make_dataset(read_splits(paths, {}), tmp_path / "d", name="d")


def test_min_rating_is_a_number():
    with pytest.raises(DmrecError, match="--min-rating must be a number, got nan"):
        prepare(Interactions(Ids.of([1]), Ids.of([1]), np.array([1.0])), min_rating=float("nan"))


def test_nan_rating():
    with pytest.raises(DmrecError, match="the rating of interaction 2 is not a number"):
        prepare(Interactions(Ids.of([1, 1]), Ids.of([1, 2]), np.array([1.0, np.nan])))

"""Looking a dataset over."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import tiny
from dmrec import dataset as from_frame
from dmrec.data.create import create_dataset
from dmrec.data.entities import Entity
from dmrec.data.inspection import alignment, inspect_dataset, warnings

PAIRS = [(u, f"sku-{i}") for u in "abcdef" for i in range(8)]


def test_nothing_at_all_can_be_inspected(tmp_path):
    nothing = {split: sp.csr_matrix((0, 4)) for split in ("train", "valid", "test")}
    assert inspect_dataset(create_dataset(tmp_path, "d", nothing, provenance={}))["density"] == 0


def test_inspection_counts(tmp_path):
    train = sp.csr_matrix(np.triu(np.ones((6, 6))))
    splits = {"train": train, "valid": sp.csr_matrix((6, 6)), "test": sp.csr_matrix(np.tril(np.ones((6, 6)), -1))}
    items = [Entity(str(i), f"Long title {i}", "text" if i < 3 else "") for i in range(6)]
    dataset = create_dataset(tmp_path, "d", splits, items=items, provenance={})
    dataset.add_vectors("x", np.eye(6)[:, :4], np.ones((6, 4)), {})
    found = inspect_dataset(dataset)
    json.dumps(found)
    assert found["splits"]["train"] == {
        "interactions": 21,
        "users": 6,
        "items": 6,
        "of unseen items": 0,
        "of unseen users": 0,
    }
    assert found["users_by_interactions"] == {"0": 0, "1": 1, "2-4": 3, "5-": 2}
    assert found["density"] == 1
    assert found["texts"]["items"]["with text"] == 0.5
    assert found["texts"]["items"]["of interactions"] == pytest.approx((1 + 2 + 3) / 21)
    assert found["texts"]["items"]["repeated"] == 2
    described = {"width": 4, "type": "float32", "items of zeros": 2, "users of zeros": 0}
    assert found["vectors"]["x"] == {**described, "alignment": 0.0, "of random order": 0.0}, "too few items to tell"
    assert warnings(found) == ["50.0% of the items have no text", "vectors 'x': 2 rows are zeros"]


@pytest.mark.parametrize("leaking", [True, False])
def test_texts_that_name_what_is_held_out_are_found(tmp_path, leaking):
    rng = np.random.default_rng(0)
    part = rng.permuted(np.tile(np.arange(40) % 10, (30, 1)), axis=1)
    splits = {split: sp.csr_matrix(part == number) for number, split in enumerate(("train", "valid", "test"))}
    items = [Entity(str(i), f"Wonderful thing number {i:02d}", f"thing {i}") for i in range(40)]
    users = []
    for u in range(30):
        had = np.flatnonzero(part[u] == 0) if not leaking else np.flatnonzero(part[u] <= 2)
        users.append(Entity(str(u), "", "likes " + ", ".join(items[i].title for i in had)))
    said = warnings(inspect_dataset(create_dataset(tmp_path, "d", splits, items=items, users=users, provenance={})))
    assert any("held out for them, 100.0% of these" in line for line in said) == leaking
    assert any("held out for them" in line for line in said) == leaking


def test_vectors_whose_rows_do_not_follow_the_items(tmp_path):
    dataset = tiny.make(tmp_path / "d")
    right = np.array(dataset.vectors().items)
    users = np.array(dataset.vectors().users)
    found, deviation = alignment(dataset.matrix("train"), right)
    assert found > 0.3 > 3 * deviation > 0
    assert not [line for line in warnings(inspect_dataset(dataset)) if "are the rows those of" in line]
    dataset.add_vectors("shifted", right[np.random.default_rng(0).permutation(len(right))], users, {})
    (said,) = [line for line in warnings(inspect_dataset(dataset)) if "are the rows those of" in line]
    assert said.startswith("vectors 'shifted': items that are bought together are not nearer than others")


def test_codes_of_neighbours(tmp_path):
    """First codes 0 0 1 1 | 1 0: two of four pairs agree, and each code is half of the firsts and of the seconds."""
    users, items = "aaaaaabbbb", ["p", "q", "r", "s", "v", "w", "s", "q", "v", "w"]
    frame = pytest.importorskip("pyarrow").table({"user": list(users), "item": items})
    data = from_frame(frame, split="leave-one-out", k_core=1, folder=tmp_path / "d")
    first = {"p": 0, "q": 0, "r": 1, "s": 1, "v": 2, "w": 2}
    codes = np.array([[first[item.id], row] for row, item in enumerate(data.items)])
    data.add_codes("known", codes, 8, {})
    found = inspect_dataset(data)["codes"]["known"]
    assert found["neighbours with one first code"] == 0.5
    assert found["by chance"] == 0.5
    assert found["perplexity"] == "3 / 6"

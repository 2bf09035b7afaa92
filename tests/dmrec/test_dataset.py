"""The dataset folder: round trip, refusals, vectors; reading tables; importing; download."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import tiny
from dmrec.data.create import create_dataset
from dmrec.data.dataset import open_dataset
from dmrec.data.entities import Entity, clean, read_entities
from dmrec.errors import DmrecError
from dmrec.files import sha256_of


def test_round_trip(tmp_path):
    made = tiny.make(tmp_path)
    again = open_dataset(tmp_path)
    assert again.items == made.items
    assert again.users[3] == Entity("u3", "", "likes bicycle chain wheel")
    assert (again.matrix("train") != made.matrix("train")).nnz == 0
    assert again.manifest["interactions"]["train"] == made.matrix("train").nnz
    vectors = again.vectors()
    assert vectors.name == "tfidf-svd"
    assert vectors.items.shape == (48, 8)
    assert isinstance(vectors.items, np.memmap)


def test_without_texts_entities_are_numbers(tmp_path):
    part = sp.csr_matrix(np.eye(3))
    dataset = create_dataset(tmp_path, "bare", {"train": part, "valid": part, "test": part}, provenance={})
    assert [item.label for item in dataset.items] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["train.npz", "items.jsonl.gz"])
def test_damage_is_found(tmp_path, name):
    tiny.make(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DmrecError, match=f"{name} differs from its checksum"):
        open_dataset(tmp_path)
    path.unlink()
    with pytest.raises(DmrecError, match=f"{name} is missing"):
        open_dataset(tmp_path)


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(DmrecError, match=r"is not a dataset \(no manifest.json\)"):
        open_dataset(tmp_path)
    with pytest.raises(DmrecError, match="is not a folder; a small dataset to start with: dmrec data fetch ml-100k"):
        open_dataset(tmp_path / "none")
    (tmp_path / "manifest.json").write_text('{"format": 1, "name": "x"}')
    with pytest.raises(DmrecError, match="lacks files, interactions"):
        open_dataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(DmrecError, match="format 99 is not known here"):
        open_dataset(tmp_path)


def test_vectors_are_checked(tmp_path):
    dataset = tiny.make(tmp_path)
    users, items = np.ones((120, 4)), np.ones((48, 4))
    with pytest.raises(DmrecError, match="items vectors have 47 rows, but the dataset has 48 items"):
        dataset.add_vectors("x", items[1:], users, {})
    with pytest.raises(DmrecError, match="must have one width"):
        dataset.add_vectors("x", items[:, :3], users, {})
    with pytest.raises(DmrecError, match="users vectors contain NaN or infinity"):
        dataset.add_vectors("x", items, users * np.nan, {})
    with pytest.raises(DmrecError, match="'../x' cannot name vectors or profiles"):
        dataset.add_vectors("../x", items, users, {})
    dataset.add_vectors("other", items, users, {})
    with pytest.raises(DmrecError, match="several text vectors .other, tfidf-svd.; choose: --set language.vectors"):
        open_dataset(tmp_path).vectors()
    with pytest.raises(DmrecError, match="no vectors 'othr'; did you mean 'other'"):
        dataset.vectors("othr")


def test_damaged_or_replaced_vectors_are_found(tmp_path):
    dataset = tiny.make(tmp_path)
    np.save(tmp_path / "users.tfidf-svd.npy", np.zeros((120, 8), dtype=np.float32))
    with pytest.raises(DmrecError, match="users.tfidf-svd.npy differs from its checksum"):
        dataset.vectors()


@pytest.mark.parametrize(
    ("dtype", "kept"), [(np.float16, np.float16), (np.float32, np.float32), (np.float64, np.float32)]
)
def test_vectors_keep_their_precision(tmp_path, dtype, kept):
    dataset = tiny.make(tmp_path)
    dataset.add_vectors("x", np.full((48, 2), 0.1, dtype), np.full((120, 2), 0.1, dtype), {})
    vectors = open_dataset(tmp_path).vectors("x")
    assert vectors.items.dtype == kept
    np.testing.assert_array_equal(vectors.users, kept(0.1))


def test_a_refused_dataset_leaves_the_old_one(tmp_path):
    made = tiny.make(tmp_path)
    splits = {"train": made.matrix("train"), "valid": made.matrix("valid"), "test": made.matrix("test")}
    with pytest.raises(DmrecError, match="2 items are described, but the matrices have 48"):
        create_dataset(tmp_path, "new", splits, items=[Entity("a"), Entity("b")], provenance={})
    assert open_dataset(tmp_path).name == "tiny"


def test_vectors_never_unpickle(tmp_path):
    dataset = tiny.make(tmp_path)
    np.save(tmp_path / "items.tfidf-svd.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DmrecError, match="is not an .npy file of numbers"):
        dataset.vectors()


def test_texts_are_data(tmp_path):
    assert clean("a\x1b[31m\nb\x00  c") == "a [31m b c"
    assert len(clean("x" * 100_000)) == 20_000
    for word in ("می\u200cخواهم", "👩\u200d💻"):
        assert clean(f"\u200d{word}\u200c  {word}\u200b\u200d") == f"{word} {word}"
    path = tmp_path / "items.jsonl"
    path.write_text('{"id": 4, "title": "T"}\n{"text": "only"}\n')
    assert read_entities(path) == [Entity("4", "T", ""), Entity("1", "", "only")]
    path.write_text("[1]\n")
    with pytest.raises(DmrecError, match="line 1: must be a JSON object, got list"):
        read_entities(path)
    path.write_text('\ufeff{"id": 7}\n\n{')
    with pytest.raises(DmrecError, match="line 3: not JSON lines"):
        read_entities(path)


def test_text_files_are_reproducible(tmp_path):
    first, second = tiny.make(tmp_path / "a"), tiny.make(tmp_path / "b")
    assert first.manifest["files"] == second.manifest["files"]
    with gzip.open(tmp_path / "a" / "items.jsonl.gz", "rt") as lines:
        assert json.loads(next(lines)) == {"id": "i0", "title": "Item 0", "text": "garden spade soil number0"}


def test_splits_are_built_once(tmp_path):
    dataset = tiny.make(tmp_path)
    for name in ("train", "valid", "test"):
        split, matrix = dataset.split(name), dataset.matrix(name)
        assert split is dataset.split(name)
        assert split.values is None
        assert (split.n_rows, split.n_cols) == (dataset.n_users, dataset.n_items) == (120, 48)
        np.testing.assert_array_equal(split.to_dense().numpy(), matrix.toarray())
    with pytest.raises(DmrecError, match="'training' is not a split; the splits are train, valid, test"):
        dataset.split("training")


def test_ids_lead_to_rows_and_columns(tmp_path):
    dataset = tiny.make(tmp_path)
    assert dataset.user_rows["u7"] == 7
    assert dataset.item_columns == {f"i{i}": i for i in range(48)}
    assert dataset.item_columns is dataset.item_columns


def test_vectors_are_verified_once(tmp_path, monkeypatch):
    tiny.make(tmp_path)
    hashed = []
    monkeypatch.setattr("dmrec.data.format1.sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))
    dataset = open_dataset(tmp_path)
    hashed.clear()
    vectors = dataset.vectors("tfidf-svd")
    assert sorted(hashed) == ["items.tfidf-svd.npy", "users.tfidf-svd.npy"]
    assert dataset.vectors() is vectors
    assert len(hashed) == 2
    dataset.add_vectors("tfidf-svd", np.ones((48, 3)), np.ones((120, 3)), {})
    hashed.clear()
    assert dataset.vectors().items.shape == (48, 3)
    assert len(hashed) == 2


OLD = Path(__file__).parents[1] / "data/format-1"


def test_a_dataset_of_an_earlier_version_opens(tmp_path):
    """``tests/data/format-1`` was written by the first version: ratings, descriptions, reviews, profiles, vectors."""
    folder = shutil.copytree(OLD, tmp_path / "old")
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.n_users, dataset.n_items) == ("format-1", 30, 20)
    assert [dataset.split(name).nnz for name in ("train", "valid", "test")] == [116, 36, 36]
    assert dataset.matrix("train").indices[:5].tolist() == [0, 4, 14, 16, 18]
    tags, description = ("spade", "soil", "seed"), "Number 4."
    first, fifth = dataset.items[0], dataset.items[dataset.item_columns["i4"]]
    assert first.id == "i0"
    assert fifth == Entity("i4", "Item 4", "Item 4. spade, soil, seed. Number 4.", tags, description)
    assert dataset.users[dataset.user_rows["u7"]] == Entity("u7", "User 7", "likes wheel chain bell")
    assert len(dataset.reviews) == 116
    assert all(text.endswith(" it is fine") for text in dataset.reviews.values())
    assert dataset.profile_names == ["template"]
    assert sum(bool(text) for text in dataset.texts("users", "template")) == 30
    vectors = dataset.vectors()
    assert (vectors.name, vectors.items.shape, vectors.users.shape) == ("tfidf-svd-template", (20, 4), (30, 4))
    np.testing.assert_allclose(np.linalg.norm(vectors.items, axis=1), 1, rtol=1e-3)
    assert dataset.fingerprint("tfidf-svd-template")["train.npz"].startswith("b60415cb")
    dataset.add_vectors("more", np.ones((20, 2)), np.ones((30, 2)), {})
    assert open_dataset(folder).vector_names == ["more", "tfidf-svd-template"]

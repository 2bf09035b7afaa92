"""Datasets of format 2: parts, what reads them, and what is refused of damaged ones."""

import json
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from dmrec.cli.main import app
from dmrec.data import create_parts, vectors
from dmrec.data.create import create_dataset
from dmrec.data.create_parts import create_large_dataset, descriptions_of
from dmrec.data.dataset import SPLITS, open_dataset
from dmrec.data.grown import NewItem, with_new_items, write_with_new_items
from dmrec.data.inspection import inspect_dataset
from dmrec.data.interactions import Block, InteractionParts
from dmrec.data.vectors import VectorParts
from dmrec.errors import DmrecError
from dmrec.language.embed import embed_dataset, permute_vectors
from dmrec.language.encoders.tfidf import TfidfSvd
from tiny import as_format2
from typer.testing import CliRunner


@pytest.fixture
def large(dataset, tmp_path):
    """The tiny dataset in format 2, of several parts."""
    return as_format2(dataset, tmp_path / "large", part_size=300)


def test_parts_hold_what_the_matrices_hold(dataset, large):
    assert (large.n_users, large.n_items) == (dataset.n_users, dataset.n_items)
    assert large.manifest["interactions"] == dataset.manifest["interactions"]
    for split in SPLITS:
        assert (large.matrix(split) != dataset.matrix(split)).nnz == 0
        assert all(map(torch.equal, large.split(split)[:2], dataset.split(split)[:2]))
    parts = sorted(path.name for path in (large.folder / "train").iterdir())
    assert len(parts) == 2 * math.ceil(large.split("train").nnz / 300) >= 4
    sizes = [np.load(large.folder / "train" / name) for name in parts]
    assert all(size.dtype == (np.int32 if "col" in name else np.int64) for name, size in zip(parts, sizes, strict=True))
    assert large.item_counts.tolist() == dataset.item_counts.tolist()
    assert sum(large.item_counts) == large.split("train").nnz
    assert large.items == [type(i)(i.id, i.title, i.text) for i in dataset.items]
    assert large.user_rows == dataset.user_rows
    assert list(large.texts("users")) == list(dataset.texts("users"))


@pytest.mark.parametrize("index", [[], [0], [119, 0, 60, 60, -1], list(range(120))])
def test_rows_are_those_of_a_csr(dataset, large, index):
    index = torch.tensor(index, dtype=torch.int64)
    for split in SPLITS:
        of_parts, of_csr = large.interactions(split).rows(index), dataset.interactions(split).rows(index)
        assert torch.equal(of_parts.crow, of_csr.crow)
        assert torch.equal(of_parts.col, of_csr.col)
        assert of_parts.n_cols == of_csr.n_cols


def test_the_interactions_of_both_formats_have_one_shape(dataset, large):
    for split in SPLITS:
        a, b = dataset.interactions(split), large.interactions(split)
        assert (a.n_rows, a.n_cols, a.nnz) == (b.n_rows, b.n_cols, b.nnz)
    assert isinstance(large.interactions("train"), InteractionParts)
    assert large.interactions("train") is large.interactions("train")
    assert dataset.interactions("train") is dataset.split("train")
    with pytest.raises(DmrecError, match="'tests' is not a split"):
        large.interactions("tests")


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.tensor([1.0]), TypeError, "index must be a tensor of int64, got torch.float32"),
        (torch.tensor([[1]]), ValueError, "index must have 1 dimension"),
        (torch.tensor([3, 120]), IndexError, "index 120 is out of range for 120 rows"),
    ],
)
def test_rows_that_are_not_there(large, index, error, message):
    with pytest.raises(error, match=message):
        large.interactions("train").rows(index)


def test_parts_do_not_depend_on_blocks(dataset, tmp_path):
    made = [as_format2(dataset, tmp_path / str(size), block=size, part_size=300) for size in (1, 37, 120)]
    assert len({json.dumps(each.manifest["files"]) for each in made}) == 1
    assert len({json.dumps(each.fingerprint(None)) for each in made}) == 1


def test_a_user_with_more_than_a_part_has_one_alone(tmp_path):
    empty = Block(np.zeros(4, np.int64), np.zeros(0, np.int32))
    block = Block(np.array([0, 1, 6, 7]), np.array([0, 0, 1, 2, 3, 4, 1]))
    made = create_large_dataset(
        tmp_path, "d", [{"train": block, "valid": empty, "test": empty}], 5, provenance={}, part_size=3
    )
    assert [len(part.col) for part in made.storage.interactions("train")._parts] == [1, 5, 1]
    assert made.split("train").to_dense().sum(1).tolist() == [1, 5, 1]


def test_such_a_user_may_end_a_block(tmp_path):
    lengths, everyone = [[2, 7], [1, 0, 2], [4]], [2, 7, 1, 0, 2, 4]
    blocks = []
    for of_block in lengths:
        nothing = Block(np.zeros(len(of_block) + 1, np.int64), np.zeros(0, np.int32))
        train = Block(np.cumsum([0, *of_block]), np.concatenate([np.arange(n) for n in of_block]))
        blocks.append({"train": train, "valid": nothing, "test": nothing})
    made = create_large_dataset(tmp_path, "d", blocks, 9, provenance={}, part_size=3)
    assert made.interactions("train").crow.diff().tolist() == everyone
    assert made.split("train").to_dense().sum(1).tolist() == everyone


@pytest.mark.parametrize(
    ("crow", "col", "message"),
    [
        ([0, 2], [1, 1], "train: the items of a user must rise strictly"),
        ([0, 2], [1, 3], "train: items must be numbers from 0 to 2"),
        ([0, 1], [1, 2], "train: crow must rise from 0 to the number of interactions, 2"),
        ([0, 1, 2], [1, 2], "a block must have the same users in each split"),
    ],
)
def test_blocks_that_cannot_be(tmp_path, crow, col, message):
    empty = Block(np.zeros(2, np.int64), np.zeros(0, np.int32))
    blocks = [{"train": Block(np.array(crow), np.array(col)), "valid": empty, "test": empty}]
    with pytest.raises(DmrecError, match=message):
        create_large_dataset(tmp_path, "d", blocks, 3, provenance={})
    assert not list(tmp_path.iterdir()), "nothing is in the way of another attempt"


def test_descriptions_are_spread_over_files(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(create_parts, "ROWS_OF_DESCRIPTIONS", 16)
    made = as_format2(dataset, tmp_path / "d")
    assert sorted(path.name for path in (made.folder / "items").iterdir()) == [f"0000{i}.parquet" for i in range(3)]
    assert [item.id for item in made.items] == [item.id for item in dataset.items]
    for whole in (made.names("items", titles=True), dataset.names("items", titles=True)):
        assert whole["id"].to_pylist() == [item.id for item in dataset.items]
    for rows in (range(0, 5), range(14, 34), range(40, 48), range(7, 7), range(48, 48)):
        for each in (made, dataset):
            named = each.names("items", titles=True, rows=rows).to_pylist()
            assert named == [{"id": item.id, "title": item.title} for item in dataset.items[rows.start : rows.stop]]
    assert made.rows_named("items", ["i40", "i17", "x", "i3"]) == {"i3": 3, "i17": 17, "i40": 40}
    with pytest.raises(DmrecError, match="119 users are described, but there are 120"):
        as_format2(dataset, tmp_path / "e", users=descriptions_of(dataset.users[:-1]))


@pytest.mark.parametrize("name", ["train/00001.col.npy", "items.counts.npy", "users/00000.parquet"])
def test_damaged_and_missing_files_are_named(large, name):
    path = large.folder / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    open_dataset(large.folder)  # compares sizes alone
    with pytest.raises(DmrecError, match=f"{name} is missing or differs from its checksum"):
        large.verify()
    with pytest.raises(DmrecError, match=f"{name} is missing or differs from its checksum"):
        large.verify([name])
    if name.startswith("train"):
        with pytest.raises(DmrecError, match=f"{name} is missing or differs from its checksum"):
            open_dataset(large.folder).split("train")  # which reads everything
    path.write_bytes(content[:-1])
    with pytest.raises(DmrecError, match=f"{name} has {len(content) - 1} bytes, and {len(content)} in manifest.json"):
        open_dataset(large.folder)
    path.unlink()
    with pytest.raises(DmrecError, match=f"{name} is missing; make the dataset again"):
        open_dataset(large.folder)


def test_ranks_share_the_checksums(large):
    names = sorted(large.manifest["files"])
    (large.folder / names[3]).write_bytes(b"")
    for rank in range(4):
        if rank == 3:
            with pytest.raises(DmrecError, match=names[3]):
                large.verify(rank=rank, ranks=4)
        else:
            large.verify(rank=rank, ranks=4)
    with pytest.raises(DmrecError, match="has no file 'train/0.npy'"):
        large.verify(["train/0.npy"])


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "train/../../x", "a/b/c"])
def test_the_manifest_cannot_name_files_elsewhere(large, name):
    manifest = json.loads((large.folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": ""}
    (large.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DmrecError, match="which cannot be one of a dataset"):
        open_dataset(large.folder)


def test_vectors_in_parts_read_like_an_array():
    whole = np.random.default_rng(0).random((10, 3)).astype(np.float16)
    parts = VectorParts([whole[:4], whole[4:8], whole[8:]])
    assert (len(parts), parts.shape, parts.dtype, parts.ndim) == (10, (10, 3), np.float16, 2)
    mask = np.arange(10) % 3 == 0
    keys = [0, -1, slice(None), slice(2, 9), slice(4, 8), slice(5, 5), slice(None, None, 3), slice(8, 1, -2), mask]
    keys += [
        [3, 3, 9, 0],
        np.array([[1, 5], [8, 2]]),
        np.array([], dtype=np.int64),
        (slice(1, 6), 0),
        (2, 1),
        np.int64(7),
    ]
    for key in keys:
        assert np.array_equal(parts[key], whole[key]), key
    assert np.shares_memory(parts[4:8], whole)
    assert np.array_equal(np.asarray(parts), whole)
    assert np.asarray(parts, dtype=np.float32).dtype == np.float32
    with pytest.raises(IndexError, match="row 10 is out of range"):
        parts[10]


def test_texts_become_vectors_in_parts(dataset, large, monkeypatch):
    monkeypatch.setattr(vectors, "PART_BYTES", 8 * 2 * 20)  # twenty rows
    embed_dataset(large, TfidfSvd(8))
    assert len(list((large.folder / "items.tfidf-svd").iterdir())) == 3
    again = open_dataset(large.folder)
    found, expected = again.vectors(), dataset.vectors("tfidf-svd")
    assert found.items.shape == (48, 8)
    assert np.array_equal(np.asarray(found.items), np.asarray(expected.items))
    assert np.array_equal(found.users[7:9], expected.users[7:9])
    permute_vectors(again, "tfidf-svd")
    assert open_dataset(large.folder).vector_names == ["permuted", "tfidf-svd"]
    assert again.fingerprint("tfidf-svd")["tfidf-svd"] != again.fingerprint("permuted")["permuted"]
    again.verify()
    assert inspect_dataset(again)["vectors"]["tfidf-svd"]["width"] == 8
    (large.folder / "users.tfidf-svd/00001.npy").write_bytes(b"")
    with pytest.raises(DmrecError, match="users.tfidf-svd/00001.npy has 0 bytes"):
        open_dataset(large.folder).vectors("tfidf-svd")


def test_inspection_finds_the_same(dataset, large):
    a, b = inspect_dataset(dataset), inspect_dataset(large)
    for part in ("splits", "users_by_interactions", "items_by_interactions", "overlap", "texts"):
        assert a[part] == b[part]


def test_new_items_join_in_memory_alone(large):
    grown = with_new_items(large, large.items[:2], {})
    assert (grown.n_items, len(grown.items), grown.split("train").n_cols) == (50, 50, 50)
    assert grown.interactions("train").n_cols == len(grown.item_counts) == 50
    new = [NewItem(large.items[0])]
    with pytest.raises(DmrecError, match="is a dataset of format 2: import its sources again, with the new items"):
        write_with_new_items(large, [each.entity for each in new], large.folder.parent / "x")


def test_a_dataset_of_the_other_format_is_replaced(dataset, large):
    folder = large.folder
    (folder / "train/notes.txt").write_text("mine")
    embed_dataset(large, TfidfSvd(8))
    splits = {split: sp.csr_matrix(dataset.matrix(split)) for split in SPLITS}
    create_dataset(folder, "again", splits, provenance={})
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        *("manifest.json", "test.npz", "train", "train.npz", "valid.npz")
    ]
    assert [path.name for path in (folder / "train").iterdir()] == ["notes.txt"]
    as_format2(dataset, folder)
    assert not (folder / "train.npz").exists()
    assert open_dataset(folder).manifest["format"] == 2


def test_sequences_are_refused(large):
    assert large.sequences is None
    with pytest.raises(DmrecError, match="has no order of interactions, as all of format 2"):
        large.sequence("train")


def _run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_take_it(large, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "PART_BYTES", 8 * 2 * 20)  # so that vectors are in several parts
    _run("embed", large.folder, "--encoder", "tfidf-svd", "--set", "width=8")
    _run("profile", large.folder, "--writer", "template", "--name", "short")
    _run("embed", large.folder, "--encoder", "tfidf-svd", "--set", "width=8", "--profiles", "short", "--name", "short")
    _run("tokenize", large.folder, "--vectors", "short", "--levels", "3", "--size", "8")
    options = ["--set", "training.epochs=1", "--set", "model.hidden=8", "--out", tmp_path / "runs"]
    _run("train", "dmrec-m", "--data", large.folder, *options, "--set", "language.vectors=short")
    run = tmp_path / "runs/tiny/dmrec-m"
    assert "recall" in _run("evaluate", run)
    assert "Item " in _run("recommend", run, "--user", "u3", "-k", "5")
    assert "tiny" in _run("data", "inspect", large.folder)


def test_training_does_not_depend_on_the_format(dataset, large, tmp_path):
    results = []
    for data in (dataset, large):
        out = tmp_path / data.folder.name
        _run("train", "mult-vae", "--data", data.folder, "--out", out, "--set", "training.epochs=2")
        results.append(json.loads((out / "tiny/mult-vae/seed-0/result.json").read_text())["test"])
    assert results[0] == results[1]


@pytest.mark.parametrize("side", ["items", "users"])
def test_rows_of_a_few_ids(dataset, large, monkeypatch, side):
    initial = side[0]
    ids = [f"{initial}3", "nobody", "", f"{initial}47", f"{initial}0", f"{initial}3", "3"]
    wanted = {f"{initial}3": 3, f"{initial}47": 47, f"{initial}0": 0}
    monkeypatch.setattr(type(large.storage), "entities", lambda *_: pytest.fail("all ids were listed"))
    for data in (dataset, large, open_dataset(large.folder)):
        assert data.rows_named(side, ids) == wanted
        assert data.rows_named(side, []) == {}
        assert data.rows_named(side, ["nobody"]) == {}
        assert data.ids_at(side, np.array([47, 3, 3])).tolist() == [f"{initial}47", f"{initial}3", f"{initial}3"]
        assert data.ids_at(side, np.zeros(0, np.int64)).shape == (0,)
    known = getattr(dataset, "item_columns" if side == "items" else "user_rows")
    assert large.rows_named(side, list(known)) == known


def test_rows_of_a_few_ids_without_descriptions(dataset, tmp_path):
    made = as_format2(dataset, tmp_path / "d", items=None, users=None)
    ids = ["7", "47", "48", "-1", "007", "+7", "x", "²", "٧", ""]
    assert made.rows_named("items", ids) == {"7": 7, "47": 47}
    assert made.item_columns["47"] == 47
    assert made.ids_at("items", np.array([47, 0])).tolist() == ["47", "0"]
    grown = with_new_items(made, dataset.items[:1], {})
    assert grown.rows_named("items", ["i0", "47"]) == {"i0": 48, "47": 47}
    assert grown.ids_at("items", np.array([48, 1])).tolist() == ["i0", "1"]

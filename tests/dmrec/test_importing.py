"""Datasets from tables, splits, matrices and the folders of others; what is said of what is wrong with them."""

import gzip
import json
import pickle
import re

import numpy as np
import pytest
import scipy.sparse as sp
from dmrec.cli.main import app
from dmrec.data.arrays import read_matrix, read_vectors
from dmrec.data.dataset import open_dataset
from dmrec.data.entities import Entity, read_entities
from dmrec.data.inspection import inspect_dataset, warnings
from dmrec.data.sources.folders import read_folder
from dmrec.data.sources.importer import make_dataset, read_splits
from dmrec.data.sources.interactions import Ids, Interactions
from dmrec.data.sources.source import Source
from dmrec.data.sources.tables import read_interactions
from dmrec.errors import DmrecError
from typer.testing import CliRunner

PAIRS = [(u, f"sku-{i}") for u in "abcdef" for i in range(8)]


def _table(pairs=PAIRS):
    user, item = zip(*pairs, strict=True)
    return Interactions(Ids.of(user), Ids.of(item))


def _write(path, pairs, header="user,item"):
    path.write_text("\n".join([header, *(",".join(map(str, pair)) for pair in pairs)]))
    return path


def _matrices(*shifts, n=4):
    return {s: sp.csr_matrix(np.roll(np.eye(n), k, 1)) for s, k in zip(("train", "valid", "test"), shifts, strict=True)}


def test_a_table_keeps_ids_and_texts(tmp_path):
    path = _write(tmp_path / "t.csv", PAIRS)
    source = Source(read_interactions(path), [path], [Entity("sku-3", "Spade", "a spade"), Entity("other")])
    dataset = make_dataset(source, tmp_path / "d", name="d", k_core=1)
    assert [user.id for user in dataset.users] == list("abcdef")
    assert dataset.items[3] == Entity("sku-3", "Spade", "a spade")
    assert dataset.items[2] == Entity("sku-2")
    assert dataset.provenance["rows"] == 48
    assert list(dataset.provenance["source"]) == ["t.csv"]
    with pytest.raises(
        DmrecError,
        match="no described item has an id of the interactions: they look like 'sku-0', the described like 'other'",
    ):
        make_dataset(Source(_table(), [], [Entity("other")]), tmp_path / "d", name="d", k_core=1)


def test_repeats_are_counted_once(tmp_path):
    dataset = make_dataset(Source(_table(PAIRS + PAIRS[:5]), []), tmp_path / "d", name="d", k_core=1)
    assert sum(dataset.manifest["interactions"].values()) == 48
    assert dataset.provenance["repeated"] == 5


def test_vectors_follow_the_entities_through_the_filters(tmp_path):
    pairs = [*PAIRS, ("lonely", "sku-99")]
    items = [Entity(f"sku-{i}") for i in (99, 7, 6, 5, 4, 3, 2, 1, 0)]
    users = [Entity(u) for u in ("lonely", *"fedcba")]
    vectors = np.arange(9.0)[:, None], np.arange(7.0)[:, None]
    dataset = make_dataset(Source(_table(pairs), [], items, users, vectors), tmp_path / "d", name="d", k_core=5)
    assert dataset.vectors("imported").items[:, 0].tolist() == [8, 7, 6, 5, 4, 3, 2, 1]
    assert dataset.vectors("imported").users[:, 0].tolist() == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("items", "rows", "message"),
    [
        (None, 8, "whose are the rows of the item vectors. Describe the items in the same order .--items"),
        (8, 7, "item vectors have 7 rows, but 8 items are described"),
        (7, 7, "1 items of the interactions have no vector, such as 'sku-7'"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path, items, rows, message):
    described = items and [Entity(f"sku-{i}") for i in range(items)]
    users = [Entity(u) for u in "abcdef"]
    source = Source(_table(), [], described, users, (np.ones((rows, 2)), np.ones((6, 2))))
    with pytest.raises(DmrecError, match=message):
        make_dataset(source, tmp_path / "d", name="d", k_core=1)
    assert not (tmp_path / "d").exists()


def test_tables_that_are_split_already(tmp_path):
    header = "user,item,rating"
    paths = {
        "train": _write(tmp_path / "a.csv", [("u2", "x", 5), ("u1", "x", 4), ("u1", "x", 4), ("u1", "w", 1)], header),
        "valid": _write(tmp_path / "b.csv", [("u1", "y", 5), ("u2", "w", 2)], header),
        "test": _write(tmp_path / "c.csv", [("u3", "x", 5), ("u1", "z", 3)], header),
    }
    dataset = make_dataset(read_splits(paths, {}), tmp_path / "d", name="d")
    assert [user.id for user in dataset.users] == ["u1", "u2", "u3"]
    assert [item.id for item in dataset.items] == ["x", "y", "z"]  # w was never liked
    assert dataset.matrix("train").toarray().tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert dataset.matrix("test").toarray().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert {name: dataset.provenance[name] for name in ("rows", "below_min_rating", "repeated")} == {
        "rows": 8,
        "below_min_rating": 2,
        "repeated": 1,
    }
    said = warnings(inspect_dataset(dataset))
    assert "1 of 1 interactions in valid are of items that have none in train" in said
    assert "1 of 2 interactions in test are of users that have none in train" in said


def test_numbers_in_one_table_and_words_in_another(tmp_path):
    parts = {"train": [(1, 10), (2, 7)], "valid": [(1, "x")], "test": [("b", 7)]}
    paths = {split: _write(tmp_path / f"{split}.csv", pairs) for split, pairs in parts.items()}
    dataset = make_dataset(read_splits(paths, {}), tmp_path / "d", name="d")
    assert [user.id for user in dataset.users] == ["1", "2", "b"]
    assert [item.id for item in dataset.items] == ["10", "7", "x"]
    assert dataset.matrix("train").toarray().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ("user,item,rating\nu1,x,5\n", "in both train and valid: 1 interaction; the splits must not overlap"),
        ("user,item,rating\nu1,y,nan\n", "valid.csv: no row has a rating"),
        ("user,item,rating\nu1,y,inf\n", "valid.csv, column rating: 'inf' in row 1 is not a number"),
        ("user,item,rating\nu1,y,1\n", "no interaction is left for valid"),
        ("user,item,rating\nu1,,5\n", "column item: row 1 has no id"),
    ],
)
def test_bad_splits(tmp_path, valid, message):
    paths = {name: tmp_path / f"{name}.csv" for name in ("train", "valid", "test")}
    for path in paths.values():
        path.write_text("user,item,rating\nu1,x,5\n" if path.stem == "train" else "user,item,rating\nu1,z,5\n")
    paths["valid"].write_text(valid)
    with pytest.raises(DmrecError, match=message):
        make_dataset(read_splits(paths, {}), tmp_path / "d", name="d")


def test_matrices_are_checked(tmp_path):
    paths = {split: tmp_path / f"{split}.npz" for split in ("train", "valid", "test")}
    for split, matrix in _matrices(0, 1, 2).items():
        sp.save_npz(paths[split], matrix)
    dataset = make_dataset(read_splits(paths, {}), tmp_path / "d", name="d")
    np.testing.assert_array_equal(dataset.matrix("valid").toarray(), np.roll(np.eye(4), 1, 1))
    sp.save_npz(paths["valid"], sp.csr_matrix(np.eye(4)))
    with pytest.raises(DmrecError, match="in both train and valid: 4 interactions"):
        make_dataset(read_splits(paths, {}), tmp_path / "d", name="d")
    sp.save_npz(paths["valid"], sp.csr_matrix(np.eye(5)))
    with pytest.raises(DmrecError, match=r"must have one shape, users x items, got train .4, 4., valid .5, 5."):
        make_dataset(read_splits(paths, {}), tmp_path / "d", name="d")
    with pytest.raises(DmrecError, match="must be three matrices or three tables"):
        read_splits({**paths, "test": tmp_path / "t.csv"}, {})


def test_matrices_that_are_none(tmp_path):
    path = tmp_path / "m.npz"
    sp.save_npz(path, sp.random(100, 100, 0.3, format="csr"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DmrecError, match="m.npz is not a sparse matrix of interactions .not saved by scipy.sparse.save_npz, or damaged"
    ):
        read_matrix(path)
    matrix = sp.csr_matrix(np.eye(3))
    for name, values, message in (
        ("indices", [0, 1, 3], "must be < 3"),
        ("indices", [0, -1, 2], "must be >= 0"),
        ("indptr", [0, 9, 2, 3], "m.npz is not a sparse matrix"),
        ("data", [1.0, np.nan, 1.0], "it holds NaN"),
    ):
        parts = {part: getattr(matrix, part) for part in ("indices", "indptr", "data")} | {name: np.array(values)}
        np.savez(path, format=b"csr", shape=matrix.shape, **parts)
        with pytest.raises(DmrecError, match=message):
            read_matrix(path)


def test_matrices_of_the_wrong_kind(tmp_path):
    for matrix, message in (
        (sp.coo_array(np.ones(3)), "it has 1 dimensions"),
        (sp.csr_matrix(np.eye(3) * 1j), "numbers of type complex128"),
    ):
        sp.save_npz(tmp_path / "m.npz", matrix)
        with pytest.raises(DmrecError, match=message):
            read_matrix(tmp_path / "m.npz")
    with pytest.raises(DmrecError, match="cannot be read: Is a directory"):
        read_matrix(tmp_path)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 4), }" % (b"9" * 25)
    (tmp_path / "v.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DmrecError, match="v.npy is not an .npy file of numbers"):
        read_vectors(tmp_path / "v.npy")


def test_users_without_interactions_are_kept_and_told(tmp_path):
    splits = {split: matrix.tolil() for split, matrix in _matrices(0, 1, 2).items()}
    for matrix in splits.values():
        matrix[3] = 0
    dataset = make_dataset(Source({s: m.tocsr() for s, m in splits.items()}, []), tmp_path / "d", name="d")
    assert dataset.n_users == 4
    assert "1 user without an interaction" in warnings(inspect_dataset(dataset))


def test_entities_of_matrices_stand_in_order_or_have_numbers(tmp_path):
    matrices = _matrices(0, 1, 2)
    named = [Entity(name) for name in "abcd"]
    dataset = make_dataset(Source(matrices, [], named), tmp_path / "d", name="d")
    assert dataset.items == named
    dataset = make_dataset(Source(matrices, [], [Entity("2", "Two")]), tmp_path / "d", name="d")
    assert [item.label for item in dataset.items] == ["0", "1", "Two", "3"]
    for name in ("4", "-1", "x"):
        with pytest.raises(DmrecError, match=f"1 items are described and the matrices have 4.*'{name}' is not"):
            make_dataset(Source(matrices, [], [Entity(name)]), tmp_path / "d", name="d")


@pytest.fixture
def atomic(tmp_path):
    """RecBole's atomic files."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"{u}\t{i}\t0\n" for u, i in PAIRS)
    )
    (folder / "shop.item").write_text(
        "item_id:token\titem_title:token_seq\tcategories:token_seq\tprice:float\temb:float_seq\n"
        'sku-0\tA "big" spade\tgarden tools\t9.5\t0.1 0.2\nsku-1\tKettle\t\t\t0.1 0.2\n'
    )
    (folder / "shop.user").write_text("user_id:token\tage:float\tjob_title:token\na\t24\twriter\n")
    return folder


def test_recbole(atomic, tmp_path):
    dataset = make_dataset(read_folder(atomic), tmp_path / "d", name="d", k_core=1)
    assert sum(dataset.manifest["interactions"].values()) == 48
    assert dataset.items[0] == Entity("sku-0", 'A "big" spade', 'A "big" spade. categories: garden tools; price: 9.5')
    assert dataset.items[1] == Entity("sku-1", "Kettle", "Kettle")
    assert dataset.items[2] == Entity("sku-2")
    assert dataset.users[0] == Entity("a", "writer", "writer. age: 24")


def test_recbole_split_already(atomic, tmp_path):
    whole = (atomic / "shop.inter").read_text().splitlines()
    (atomic / "shop.inter").unlink()
    for number, split in enumerate(("train", "valid", "test")):
        (atomic / f"shop.{split}.inter").write_text("\n".join([whole[0], *whole[1 + number :: 3]]))
    dataset = make_dataset(read_folder(atomic), tmp_path / "d", name="d")
    assert dataset.manifest["interactions"] == {"train": 16, "valid": 16, "test": 16}
    assert dataset.items[1].title == "Kettle"
    (atomic / "shop.test.inter").rename(atomic / "other.inter")
    with pytest.raises(DmrecError, match="must hold one NAME.inter, or .*it holds other.inter, shop.train.inter"):
        read_folder(atomic)


def test_recbole_without_ids(atomic):
    (atomic / "shop.item").write_text("key:token\tname:token\n1\tx\n")
    with pytest.raises(DmrecError, match=r"shop.item has no column item_id .columns: key, name"):
        read_folder(atomic)


def _movielens_100k(folder):
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{5 - i % 2}\t0\n" for u in range(1, 7) for i in range(1, 9)))
    (folder / "u.item").write_bytes(
        "1|Café (1995)|01-Jan-1995||http://x|0|1|1\n2|B (1996)|||http|1|0|0\n".encode("latin-1")
    )
    (folder / "u.user").write_text("1|24|M|technician|85711\n")
    (folder / "u.genre").write_text("unknown|0\nAction|1\nWar|2\n\n")
    return Entity(
        "1", "Café (1995)", "Café (1995). Genres: Action, War.", ("Action", "War")
    ), "24 year old .age group 20s. male, occ"


def _movielens_1m(folder):
    (folder / "ratings.dat").write_text(
        "".join(f"{u}::{i}::{5 - i % 2}::0\n" for u in range(1, 7) for i in range(1, 9))
    )
    (folder / "movies.dat").write_bytes("1::Café (1995)::Action|War\n".encode("latin-1"))
    (folder / "users.dat").write_text("1::F::25::10::48067\n")
    return Entity(
        "1", "Café (1995)", "Café (1995). Genres: Action, War.", ("Action", "War")
    ), "aged 25-34, female, occupation: school student"


def _movielens_csv(folder):
    rows = [(u, i, 5 - i % 2, 0) for u in range(1, 7) for i in range(1, 9)]
    _write(folder / "ratings.csv", rows, "userId,movieId,rating,timestamp")
    (folder / "movies.csv").write_text('movieId,title,genres\n1,"Café, Le (1995)",Action|War\n', encoding="utf-8")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,Paris,0\n2,1,coffee,0\n3,1,coffee,0\n9,9,z,0\n")
    text = "Café, Le (1995). Genres: Action, War. Tags: coffee, paris."
    return Entity("1", "Café, Le (1995)", text, ("Action", "War", "coffee", "paris")), ""


@pytest.mark.parametrize("lay_out", [_movielens_100k, _movielens_1m, _movielens_csv])
def test_movielens(tmp_path, lay_out):
    (tmp_path / "ml").mkdir()
    film, who = lay_out(tmp_path / "ml")
    dataset = make_dataset(read_folder(tmp_path / "ml"), tmp_path / "d", name="d", k_core=1)
    assert sum(dataset.manifest["interactions"].values()) == 48
    assert dataset.items[0] == film
    assert re.match(who, dataset.users[0].text)
    for name in ("u.item", "u.user", "movies.dat", "users.dat", "movies.csv", "tags.csv", "u.genre"):
        (tmp_path / "ml" / name).unlink(missing_ok=True)
    bare = make_dataset(read_folder(tmp_path / "ml"), tmp_path / "d", name="d", k_core=1)
    assert bare.items[0] == Entity("1")


def test_bad_movielens(tmp_path):
    (tmp_path / "u.data").write_text("1\t2\t5\t0\n1\t2\n")
    with pytest.raises(DmrecError, match="u.data, line 2: 2 fields, at least 3 are expected"):
        read_folder(tmp_path)
    (tmp_path / "u.data").write_text("1\t2\tgood\t0\n")
    with pytest.raises(DmrecError, match="u.data, line 1: the rating 'good' is not a number"):
        read_folder(tmp_path)
    _movielens_csv(tmp_path)
    (tmp_path / "u.data").unlink()
    (tmp_path / "movies.csv").write_text("id,title,genres\n")
    with pytest.raises(DmrecError, match=r"movies.csv has no column 'movieId' .columns: id, title, genres"):
        read_folder(tmp_path)


@pytest.fixture
def pickles(tmp_path):
    """The files of RLMRec and DMRec."""
    folder = tmp_path / "amazon"
    folder.mkdir()
    rng = np.random.default_rng(0)
    values = {
        **{
            f"{name}_mat": m.tocoo() for name, m in zip(("trn", "val", "tst"), _matrices(0, 1, 2).values(), strict=True)
        },
        "usr_prf": {u: {"profile": f"likes {u}", "reasoning": "because"} for u in (0, 1, 3)},
        "itm_prf": [{"profile": f"a thing {i}", "title": f"Thing {i}"} for i in range(4)],
        "usr_emb_np": rng.random((4, 6)),
        "itm_emb_np": rng.random((4, 6)),
    }
    for name, value in values.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    return folder, values


def test_pickles_of_rlmrec(pickles, tmp_path):
    folder, values = pickles
    dataset = make_dataset(read_folder(folder), tmp_path / "d", name="d")
    np.testing.assert_array_equal(dataset.matrix("test").toarray(), values["tst_mat"].toarray())
    assert dataset.users[3] == Entity("3", "", "likes 3")
    assert dataset.users[2] == Entity("2")  # its request had failed
    assert dataset.items[1] == Entity("1", "Thing 1", "a thing 1")
    np.testing.assert_allclose(dataset.vectors().items, values["itm_emb_np"], rtol=1e-6)
    assert "25.0% of the users have no text" in warnings(inspect_dataset(dataset))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("usr_prf", {4: {"profile": "x"}}, "1 users are described and the matrices have 4.*'4' is not"),
        (
            "usr_prf",
            {0: {"text": "x"}},
            "usr_prf.pkl: the entry after 0 others has no number or no text under 'profile'",
        ),
        ("usr_prf", {10**5000: {"profile": "x"}}, "entry after 0 others has no number"),
        ("usr_prf", np.zeros(3), "usr_prf.pkl must hold a dictionary or a list of profiles, not ndarray"),
        ("usr_emb_np", np.ones((3, 6)), "users vectors have 3 rows, but the dataset has 4 users"),
        ("itm_emb_np", np.ones(3), r"itm_emb_np.pkl must hold a matrix of floating-point numbers, got float64 .3,."),
        ("itm_emb_np", {"a": 1}, "itm_emb_np.pkl must hold a matrix of floating-point numbers, not dict"),
        ("val_mat", [1, 2], "val_mat.pkl is not a sparse matrix .*it holds list"),
    ],
)
def test_pickles_that_do_not_fit(pickles, tmp_path, name, value, message):
    (pickles[0] / f"{name}.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(DmrecError, match=message):
        make_dataset(read_folder(pickles[0]), tmp_path / "d", name="d")


def test_profiles_out_of_order_go_where_their_numbers_say(pickles, tmp_path):
    folder, _ = pickles
    profiles = {i: {"profile": f"profile of {i}"} for i in (3, 1, 0, 2)}
    (folder / "itm_prf.pkl").write_bytes(pickle.dumps(profiles))
    dataset = make_dataset(read_folder(folder), tmp_path / "d", name="d")
    assert [item.text for item in dataset.items] == [f"profile of {i}" for i in range(4)]
    (folder / "usr_emb_np.pkl").unlink()
    with pytest.raises(DmrecError, match="holds itm_emb_np.pkl alone: vectors of items and of users go together"):
        read_folder(folder)


def test_what_is_refused_replaces_nothing(tmp_path):
    old = make_dataset(Source(_table(), []), tmp_path / "d", name="old", k_core=1)
    old.add_vectors("precious", np.ones((8, 2)), np.ones((6, 2)), {})
    items, users = [Entity(f"sku-{i}") for i in range(8)], [Entity(u) for u in "abcdef"]
    for bad in (
        (np.ones((8, 3)), np.ones((6, 4))),
        (np.ones((8, 2)) * np.nan, np.ones((6, 2))),
        (np.ones((8, 0)),) * 2,
    ):
        with pytest.raises(DmrecError, match="vectors"):
            make_dataset(Source(_table(), [], items, users, bad), tmp_path / "d", name="new", k_core=1)
    assert open_dataset(tmp_path / "d").vector_names == ["precious"]


def test_ids_are_kept_as_they_are_or_refused(tmp_path):
    names = ["two  spaces", "a,comma", "ключ", "z\u200bw", "nb\u00a0sp", "id\u3000eo", "-3", "007", "x" * 512]
    pairs = [(u, name) for u in "abcdef" for name in names]
    dataset = make_dataset(Source(_table(pairs), [], [Entity(names[0], "Found")]), tmp_path / "d", name="d", k_core=1)
    assert {item.id for item in dataset.items} == set(names)
    assert [item.title for item in dataset.items if item.id == names[0]] == ["Found"]
    for strange, message in (("a\0", "cannot be shown"), ("b\u2028b", "cannot be shown"), ("x" * 513, "at most 512")):
        with pytest.raises(DmrecError, match=message):
            _table([("u", strange)])
        (tmp_path / "t.jsonl").write_text(json.dumps({"user": "u", "item": strange}))
        with pytest.raises(DmrecError, match=f"t.jsonl: the id .*{message}"):
            read_interactions(tmp_path / "t.jsonl")
        (tmp_path / "items.jsonl").write_text(json.dumps({"id": strange}))
        with pytest.raises(DmrecError, match=f"items.jsonl, line 1: the id .*{message}"):
            read_entities(tmp_path / "items.jsonl")


def test_an_entity_described_twice_is_refused(tmp_path):
    items = [Entity("sku-1", "One"), Entity("sku-2"), Entity("sku-1", "Uno")]
    with pytest.raises(DmrecError, match="the item with id 'sku-1' is described more than once"):
        make_dataset(Source(_table(), [], items), tmp_path / "d", name="d", k_core=1)


def test_unknown_layouts(tmp_path):
    (tmp_path / "clicks.xml").write_text("")
    with pytest.raises(
        DmrecError,
        match=r"has an unknown layout: it holds none of \*.inter, .*, trn_mat.pkl, u.data",
    ):
        read_folder(tmp_path)
    (tmp_path / "u.data").write_text("")
    (tmp_path / "ratings.csv").write_text("")
    with pytest.raises(DmrecError, match="matches several layouts: it holds u.data and ratings.csv; give the table"):
        read_folder(tmp_path)


def test_recbole_names_with_dots(atomic, tmp_path):
    for path in list(atomic.iterdir()):
        path.rename(path.with_name("my." + path.name))
    assert read_folder(atomic).items[1].title == "Kettle"
    whole = (atomic / "my.shop.inter").rename(atomic / "a.train.inter").read_text()
    (atomic / "b.valid.inter").write_text(whole)
    (atomic / "b.test.inter").write_text(whole)
    with pytest.raises(DmrecError, match="must hold one NAME.inter, or .*it holds a.train.inter, b.test.inter"):
        read_folder(atomic)


def test_sources_in_the_folder_of_the_dataset_stay(tmp_path):
    reviews, items = tmp_path / "reviews.jsonl.gz", tmp_path / "items.jsonl.gz"
    reviews.write_bytes(gzip.compress("\n".join(json.dumps({"user": u, "item": i}) for u, i in PAIRS).encode()))
    items.write_bytes(gzip.compress(b'{"id": "sku-0", "title": "Spade"}'))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    given = ["data", "import", str(reviews), "--out", str(tmp_path)]
    for options in ([], ["--force"]):
        refused = CliRunner().invoke(app, [*given, *options])
        assert "reviews.jsonl.gz is a source and would be overwritten" in str(refused.exception)
    with pytest.raises(DmrecError, match="items.jsonl.gz is a source"):
        make_dataset(Source(_table(), [items]), tmp_path / ".." / tmp_path.name, name="d", k_core=1)
    elsewhere = _write(tmp_path / "t.csv", PAIRS)
    given[2] = str(elsewhere)
    assert "is not a dataset but holds items.jsonl.gz, reviews" in str(CliRunner().invoke(app, given).exception)
    vectors = tmp_path / "items.mine.npy"
    options = ["--item-vectors", str(vectors), "--user-vectors", str(vectors), "--vectors-name", "mine", "--force"]
    assert "items.mine.npy is a source" in str(CliRunner().invoke(app, [*given, *options]).exception)
    elsewhere.unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (
        CliRunner()
        .invoke(app, ["data", "synthetic", "--users", "50", "--items", "50", "--out", str(tmp_path), "--force"])
        .exit_code
        == 0
    )
    assert open_dataset(tmp_path).n_items == 50


def test_reviews_of_matrices_described_in_their_order_go_by_ids(tmp_path):
    names = ["3", "1", "0", "9"]
    reviews = [(u, i, f"{u} on {i}", None) for u in names for i in names]
    entities = [Entity(name) for name in names]
    dataset = make_dataset(Source(_matrices(0, 1, 2), [], entities, entities, None, reviews), tmp_path / "d", name="d")
    assert dataset.reviews == {(row, row): f"{name} on {name}" for row, name in enumerate(names)}

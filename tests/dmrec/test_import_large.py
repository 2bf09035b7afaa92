"""Imports by an engine: the same bytes whatever the engine, memory and files; the filters of format 1; refusals."""

import gzip
import hashlib
import importlib.util
import json
import re
import shutil
import zipfile
from contextlib import closing

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from dmrec.cli.main import app
from dmrec.data.dataset import SPLITS, open_dataset
from dmrec.data.engines import ENGINES
from dmrec.data.engines.engine import DELIMITED, SourceFiles
from dmrec.data.engines.memory import bytes_of
from dmrec.data.sources.download import INSIDE, WHEEL, cache_folder
from dmrec.data.sources.importer import make_dataset, read_table
from dmrec.data.sources.large import import_large
from dmrec.data.sources.large_files import is_large
from dmrec.data.sources.streamed_split import StreamedSplit
from dmrec.data.splits import Shares
from dmrec.errors import DmrecError
from typer.testing import CliRunner

pytest.importorskip("duckdb", reason="duckdb is not installed")
MEMORY = 500_000_000


def _table(rows=6000, users=150, items=80, seed=0):
    """Ratings with repeats, of items whose popularity falls."""
    random = np.random.default_rng(seed)
    return pyarrow.table(
        {
            "user_id": [f"u{number}" for number in random.integers(0, users, rows)],
            "item_id": (items * random.random(rows) ** 2).astype(int),
            "rating": random.integers(1, 11, rows) / 2,
            "timestamp": np.arange(rows),
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "ratings.parquet"
    pyarrow.parquet.write_table(_table(), path)
    return path


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    return import_large(source, tmp_path_factory.mktemp("made") / "d", name="d", memory=MEMORY)


def _arrays(dataset):
    """The checksums of everything that models learn from."""
    return {name: noted["sha256"] for name, noted in dataset.manifest["files"].items() if name.endswith(".npy")}


def _pairs(dataset):
    """All interactions, by ids."""
    matrix = sum(dataset.matrix(split) for split in SPLITS).tocoo()
    return {(dataset.users[u].id, dataset.items[i].id) for u, i in zip(matrix.row, matrix.col, strict=True)}


def test_the_filters_are_those_of_format_1(source, imported, tmp_path):
    small = make_dataset(read_table(source, {}), tmp_path / "small", name="small")
    assert _pairs(imported) == _pairs(small)
    assert imported.manifest["interactions"].keys() == small.manifest["interactions"].keys()
    for name in ("rows", "below_min_rating", "outside_core"):
        assert imported.provenance[name] == small.provenance[name]
    held_out = [sum(d.manifest["interactions"][split] for split in SPLITS[1:]) for d in (imported, small)]
    assert abs(held_out[0] - held_out[1]) <= imported.provenance["moved_to_train"] + small.provenance["moved_to_train"]
    imported.verify()


def test_the_split_is_a_fifth_of_each_user_and_training_has_every_item(imported):
    counts = [np.diff(imported.matrix(split).indptr) for split in SPLITS]
    expected = np.rint(sum(counts) * 0.2)
    assert (counts[1] <= expected).all()
    assert counts[1].sum() + imported.provenance["moved_to_train"] >= expected.sum()
    trained = np.bincount(imported.matrix("train").indices, minlength=imported.n_items)
    assert (trained > 0).all()
    assert trained.tolist() == np.load(imported.folder / "items.counts.npy").tolist()
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert imported.matrix(a).multiply(imported.matrix(b)).nnz == 0


@pytest.mark.parametrize("memory", [200_000_000, 2_000_000_000])
def test_memory_does_not_change_a_byte(source, imported, tmp_path, memory):
    assert _arrays(import_large(source, tmp_path / "d", name="d", memory=memory)) == _arrays(imported)


def test_order_and_files_do_not_change_a_byte(imported, tmp_path):
    table = _table()
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    folder = tmp_path / "logs"
    folder.mkdir()
    for number, rows in enumerate((0, 1000, 1001, 4000)):
        stop = (1000, 1001, 4000, len(table))[number]
        pyarrow.parquet.write_table(shuffled.slice(rows, stop - rows), folder / f"{9 - number}.parquet")
    (folder / "_SUCCESS").write_text("")
    for given in (folder, folder / "*.parquet"):
        again = import_large(given, tmp_path / "d", name="d", memory=MEMORY)
        assert _arrays(again) == _arrays(imported)
        assert [user.id for user in again.users] == [user.id for user in imported.users]


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "jsonl", "jsonl.gz"])
def test_texts_give_the_same_as_parquet(imported, tmp_path, kind):
    rows = _table().to_pylist()
    path = tmp_path / f"ratings.{kind}"
    if "json" in kind:
        lines = [json.dumps(row) for row in rows]
    else:
        divide = "\t" if kind == "tsv" else ","
        lines = [divide.join(rows[0]), *(divide.join(map(str, row.values())) for row in rows)]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    assert _arrays(import_large(path, tmp_path / "d", name="d", memory=MEMORY)) == _arrays(imported)


def test_seed_and_shares_change_the_split_alone(source, imported, tmp_path):
    other = import_large(source, tmp_path / "a", name="d", memory=MEMORY, seed=2**63 - 1)
    assert _arrays(other) != _arrays(imported)
    assert _pairs(other) == _pairs(imported)
    whole = import_large(source, tmp_path / "b", name="d", memory=MEMORY, shares=Shares(0.1, 0.0))
    assert whole.manifest["interactions"]["test"] == 0
    assert _pairs(whole) == _pairs(imported)


def test_users_are_numbered_by_hash(imported):
    ids = [user.id for user in imported.users]
    assert sorted(ids) != ids
    assert ids == sorted(ids, key=lambda each: (hashlib.md5(each.encode()).hexdigest(), each))


MESSY = [" u1", "u1 ", "u2", "NULL", "", "\u00a0u3\u200b", "\\N", "o'brien", "back\\slash", "Grüße", "a,b"]


def _messy(path, floats=False):
    """Ids that are cleaned, or mean that there is none, and ratings that are missing."""
    items = [f"{i}.0" if floats else f"i{i}" for i in range(9)]
    rows = [(user, item, rating) for user in MESSY for item, rating in zip(items, "55 54321,5", strict=False)]
    lines = [f'"{u}",{i},{"" if r in " ," else r}' for u, i, r in rows]
    path.write_text("\n".join(["user,item,rating", *lines]) + "\n")
    return path


@pytest.mark.parametrize("floats", [False, True])
def test_ids_are_cleaned_as_in_format_1(tmp_path, floats):
    path = _messy(tmp_path / "t.csv", floats)
    with pytest.raises(DmrecError, match=r"t.csv, column user: row 28 has no id \('NULL'\), and so have 21 of 77 rows"):
        import_large(path, tmp_path / "d", name="d", memory=MEMORY)
    with pytest.raises(DmrecError, match=r"t.csv, column user: row 22 has no id \('NULL'\), and so have 21 of 77 rows"):
        make_dataset(read_table(path, {}), tmp_path / "d", name="d")
    more = path.read_text() + "".join(f"more{n},{i},5\n" for n in range(8) for i in range(9))
    path.write_text(more)
    options = {"k_core": 1, "min_rating": 2.0}
    large = import_large(path, tmp_path / "large", name="d", memory=MEMORY, **options)
    small = make_dataset(read_table(path, {}), tmp_path / "small", name="d", **options)
    assert _pairs(large) == _pairs(small)
    assert large.provenance["rows_without_rating"] == small.provenance["rows_without_rating"]
    assert large.provenance["read"]["rows_without_user"] == small.provenance["read"]["rows_without_user"]
    assert {"u3", "o'brien", "back\\slash", "Grüße", "a,b"} <= {user.id for user in large.users}


def test_descriptions_are_joined_by_id(source, tmp_path):
    items = tmp_path / "items.jsonl"
    described = [{"item_id": i, "title": f"Item {i}", "genres": ["a", "b"]} for i in range(60)]
    described = [{"item_id": 3, "title": "", "genres": ["untitled"]}, *described, {"item_id": 3, "title": "Second"}]
    items.write_text("\n".join(map(json.dumps, [*described, {"item_id": 999, "title": "Stranger"}])))
    users = tmp_path / "users.csv"
    users.write_text("user_id,text\nu1,likes tea\nu2,<b>likes</b> coffee\n")
    options = {"items": items, "users": users}
    large = import_large(source, tmp_path / "large", name="d", memory=MEMORY, **options)
    titles = {item.id: (item.title, item.text) for item in large.items}
    assert titles["3"] == ("Item 3", "Item 3. a, b")
    assert titles["59"] == ("Item 59", "Item 59. a, b")
    assert titles["70"] == ("", "")
    assert {user.id: user.text for user in large.users if user.text} == {"u1": "likes tea", "u2": "likes coffee"}
    assert list(large.texts("items")) == [item.text for item in large.items]
    assert large.provenance["users_described"] == 2
    users.write_text("user_id,text\n1,likes tea\n")
    with pytest.raises(DmrecError, match="no described user has an id of the interactions: they look like 'u0'"):
        import_large(source, tmp_path / "large", name="d", memory=MEMORY, **options)
    assert open_dataset(tmp_path / "large").n_users == large.n_users  # what is refused replaces nothing


STRANGE = ["a[12].csv", "q?.csv", "s*.csv", "b{1,2}.csv"]
"""Names that would be patterns, of which some match other files."""


def _strange(folder):
    """A folder with files of one row each, those of `STRANGE` and others that their names match."""
    folder.mkdir()
    for number, name in enumerate([*STRANGE, "a1.csv", "qx.csv", "sx.csv", "b1.csv"]):
        (folder / name).write_text(f"user,item\nu{number},i{number}\n")
    return [folder / name for name in STRANGE]


@pytest.mark.parametrize("name", ["duckdb", pytest.param("spark", marks=pytest.mark.slow)])
def test_names_of_files_are_not_patterns(tmp_path, name):
    if name == "spark":
        _needs_spark()
    with closing(ENGINES[name](tmp_path, MEMORY)) as engine:
        for number, path in enumerate(_strange(tmp_path / "files")):
            relation, _ = engine.relation(SourceFiles([path], DELIMITED, ["user", "item"]))
            assert engine.row(f"SELECT min({engine.quote('user')}), count(*) FROM {relation}") == (f"u{number}", 1)


def _csv(*lines):
    return "\n".join(["user,item,rating", *(f"u{n % 9},i{n % 7},4" for n in range(1200)), *lines]) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.csv", _csv("u1,i1,good"), "b.csv, column rating: 'good' in row 1201 is not a number"),
        ("b.csv", _csv("u1,i1,4d"), "b.csv, column rating: '4d' in row 1201 is not a number"),
        ("b.csv", _csv("u1,i1,1e999"), "b.csv, column rating: '1e999' in row 1201 is not a number"),
        ("b.csv", _csv('u1,i1,"4,5"'), "b.csv, column rating: '4,5' in row 1201 is not a number; .*--decimal ,"),
        ("b.csv", _csv("u1,i1"), "b.csv, line 1202: "),
        ("b.csv", _csv("u\x01,i1,4", *["u\x01,i2,4"] * 3), r"the id 'u\\x01' has characters that cannot be shown"),
        (
            "b.csv",
            _csv(*[f"{'u' * 513},i{n},4" for n in range(5)]),
            "the ids of users: the id 'uuu.*has 513 characters",
        ),
        ("b.csv", "who,what\na,b\n", "has no column for the user"),
        (
            "b.csv",
            "user,user_id,item\na,b,c\n",
            "b.csv has the columns .user. and .user_id., and either may be the user",
        ),
        ("b.csv", "user,item,liked\na,b,1\na,c,2\n", "'liked' looks like one"),
        ("b.tsv", "user\titem\trating\na\tb\n", "b.tsv, line 2: "),
        ("b.csv", "user,item,rating\na,b,\n", "no row has a rating"),
        (
            "b.csv",
            "user,item,rating\na,b,1\n",
            "no interaction is left: 1 of 1 rows have a rating below 3, and no 2-core",
        ),
        (
            "b.jsonl",
            '[{"user": "a", "item": "b"}]',
            "b.jsonl, line 1: large sources must have a JSON object in each line",
        ),
        (
            "b.jsonl",
            '{"user": {"id": 1}, "item": "b"}',
            "b.jsonl, record 1, field user: the user must be text or a number",
        ),
        ("b.jsonl", '{"user": "a", "item": "b"}\n{"user": ', "b.jsonl"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DmrecError, match=message) as refused:
        import_large(tmp_path / name, tmp_path / "d", name="d", k_core=2, memory=MEMORY)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing is left behind


def _parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1.5], "item": ["a"]}, "t.parquet, column user: the id 1.5 is not a whole number"),
        ({"user": [2.0**60], "item": ["a"]}, "t.parquet, column user: the id .* is not a whole number below 2.53"),
        ({"user": [[1]], "item": ["a"]}, "t.parquet, column user holds list.*; an id must be text or a whole number"),
        ({"user": [1], "item": ["a"], "rating": [True]}, "holds bool; a rating must be a number or text"),
        ({"user": [1], "item": ["a"], "rating": [float("nan")]}, "column rating: 'nan' in row 1 is not a number"),
        ({"user": [1], "item": ["a"], "rating": [float("inf")]}, "column rating: 'inf' in row 1 is not a number"),
    ],
)
def test_columns_of_parquet_that_cannot_be(tmp_path, columns, message):
    path = _parquet(tmp_path / "t.parquet", **columns)
    with pytest.raises(DmrecError, match=message):
        import_large(path, tmp_path / "d", name="d", k_core=1, memory=MEMORY)


def test_files_that_do_not_go_together(tmp_path):
    a = _parquet(tmp_path / "a.parquet", user=["x"], item=["y"])
    b = _parquet(tmp_path / "b.parquet", user=[1], item=["y"])
    with pytest.raises(DmrecError, match="b.parquet, column user holds int64; in a.parquet it holds string"):
        import_large(tmp_path / "*.parquet", tmp_path / "d", name="d")
    b.write_bytes(a.read_bytes()[:-10])
    with pytest.raises(DmrecError, match="b.parquet is not a Parquet file"):
        import_large(tmp_path / "*.parquet", tmp_path / "d", name="d")
    (tmp_path / "c.csv").write_text("user,item\n1,2\n")
    with pytest.raises(DmrecError, match="c.csv and a.parquet are tables of different kinds"):
        import_large(tmp_path / "[ac].*", tmp_path / "d", name="d")
    (tmp_path / "d.csv").write_text("item,user\n1,2\n")
    with pytest.raises(DmrecError, match="d.csv has the columns item, user, but c.csv has user, item"):
        import_large(tmp_path / "*.csv", tmp_path / "d", name="d")
    with pytest.raises(DmrecError, match=r"no file matches the pattern .*/\*\.tsv"):
        import_large(tmp_path / "*.tsv", tmp_path / "d", name="d")


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_chooses_the_format(source, imported, tmp_path, monkeypatch):
    assert not is_large(source)
    folder = tmp_path / "parts"
    folder.mkdir()
    shutil.copy(source, folder / "part-0.parquet")
    assert not is_large(folder)
    assert is_large(folder / "*.parquet")
    assert not is_large(tmp_path)
    (folder.parent / "csv").mkdir()
    (folder.parent / "csv/any.csv.gz").write_bytes(b"")
    assert is_large(folder.parent / "csv")
    (folder.parent / "csv/README").write_bytes(b"")
    assert not is_large(folder.parent / "csv")
    monkeypatch.setattr("dmrec.data.sources.large_files.LARGE", 1000)
    assert is_large(source)
    assert is_large(folder)
    out = tmp_path / "shop"
    result = _run("data", "import", folder, "--out", out, "--memory", "500MB", "--split", "random")
    assert result.exit_code == 0, result.output
    assert f"{imported.n_users} users, {imported.n_items} items" in result.output
    assert "columns: user = 'user_id', item = 'item_id', rating = 'rating'; not used: 'timestamp'" in result.output
    assert _arrays(open_dataset(out)) == _arrays(imported)
    again = _run("data", "import", folder, "--out", out)
    assert "holds a dataset; name another folder" in str(again.exception)
    inside = _run("data", "import", out / "items/*.parquet", "--out", out, "--force")
    assert "is a source and would be overwritten" in str(inside.exception)
    every = _run("data", "import", source, "--out", tmp_path / "again", "--engine", "duckdb", "--no-rating")
    assert every.exit_code == 0, every.output
    assert open_dataset(tmp_path / "again").provenance["below_min_rating"] == 0
    assert (
        "below_min_rating" not in open_dataset(tmp_path / "again").provenance
        or not open_dataset(tmp_path / "again").provenance["below_min_rating"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "time"], "--split is not for large sources .format 2., which are split at random per user"),
        (["--time-column", "timestamp"], "--time-column is not for large sources"),
        (["--reviews", "x.csv"], "--reviews is not for large sources"),
        (["--sequences"], "--sequences is not for large sources"),
        (["--encoding", "latin-1"], "--encoding latin-1: large sources must be UTF-8"),
        (["--engine", "polars"], "--engine polars: there is duckdb, spark"),
        (["--memory", "much"], "--memory much: must be a size such as 64GB or 500MB"),
        (["--min-rating", "nan"], "--min-rating must be a number"),
    ],
)
def test_options_that_cannot_be(source, tmp_path, arguments, message):
    result = _run("data", "import", source, "--out", tmp_path / "d", "--engine", "duckdb", *arguments)
    assert result.exit_code == 1
    assert re.search(message, str(result.exception))


def test_memory_is_for_large_sources(source, tmp_path):
    result = _run("data", "import", source, "--out", tmp_path / "d", "--memory", "1GB")
    message = "--memory is for large sources, and for others with --engine duckdb: leave it out"
    assert message in str(result.exception)
    assert [bytes_of(text) for text in ("64GB", "500mb", "1GiB", "7")] == [64 * 10**9, 500 * 10**6, 2**30, 7]


def test_a_model_trains_on_it(imported, tmp_path):
    result = _run("train", "mult-vae", "--data", imported.folder, "--out", tmp_path, "--set", "training.epochs=1")
    assert result.exit_code == 0, result.output
    run = tmp_path / "d/mult-vae"
    assert "recall" in _run("evaluate", run).output
    listed = _run("recommend", run, "--user", imported.users[0].id, "-k", "3")
    assert listed.exit_code == 0, listed.output


def test_batches_may_end_anywhere(tmp_path):
    random = np.random.default_rng(0)
    pairs = np.array(sorted({(u, i) for u in range(30) for i in random.integers(0, 40, 12)}))
    found = []
    for size in (1, 7, 1000):
        split = StreamedSplit(tmp_path, 30, 40, 5, Shares())
        batches = (pyarrow.record_batch([part[:, 0], part[:, 1]], ["u", "i"]) for part in _slices(pairs, size))
        split.take(batches)
        blocks = list(split.blocks())
        found.append([np.concatenate([block[name].col for block in blocks]).tolist() for name in SPLITS])
    assert found[0] == found[1] == found[2]
    with pytest.raises(DmrecError, match="pairs that are not sorted"):
        StreamedSplit(tmp_path, 30, 40, 5, Shares()).take([pyarrow.record_batch([[1, 0], [0, 0]], ["u", "i"])])


def _slices(pairs, size):
    return (pairs[first : first + size] for first in range(0, len(pairs), size))


def test_movielens_has_the_same_interactions_in_both_formats(tmp_path):
    wheel = cache_folder() / WHEEL
    if not wheel.exists():
        pytest.skip("MovieLens-100K is not in the cache: dmrec data fetch ml-100k")
    with zipfile.ZipFile(wheel) as archive:
        path = tmp_path / "ml-100k.inter"
        path.write_bytes(archive.read(f"{INSIDE}.inter"))
    small = make_dataset(read_table(path, {}), tmp_path / "small", name="d")
    large = import_large(path, tmp_path / "large", name="d", memory=MEMORY)
    assert _pairs(small) == _pairs(large)


def _needs_spark():
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed, which Spark needs")


@pytest.mark.slow
def test_spark_gives_the_same_bytes(tmp_path):
    _needs_spark()
    path = _messy(tmp_path / "t.csv")
    random = np.random.default_rng(0)
    rows = "".join(f"{u},i{i},{1 + (u + i) % 5}\n" for u, i in random.integers(0, 40, (3000, 2)))
    path.write_text(path.read_text() + rows)
    made = [
        import_large(path, tmp_path / engine, name="d", engine=engine, k_core=2, memory=MEMORY)
        for engine in ("duckdb", "spark")
    ]
    assert _arrays(made[0]) == _arrays(made[1])
    assert made[0].users == made[1].users
    assert made[0].items == made[1].items

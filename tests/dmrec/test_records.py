"""Texts in addition to interactions: the layouts of Amazon, Yelp and Steam, what is joined, and what is refused."""

import csv
import gzip
import json

import numpy as np
import pytest
import scipy.sparse as sp
from dmrec.cli.main import app
from dmrec.data.dataset import open_dataset
from dmrec.data.entities import Entity
from dmrec.data.inspection import inspect_texts
from dmrec.data.sources.columns import description_of
from dmrec.data.sources.descriptions import read_all, read_reviews, read_those
from dmrec.data.sources.importer import make_dataset, read_splits, read_table
from dmrec.data.sources.records import iterate_records
from dmrec.data.sources.source import Source
from dmrec.data.sources.tables import read_interactions
from dmrec.errors import DmrecError
from typer.testing import CliRunner

USERS, ITEMS = 6, 8


def _write(path, records, form=json.dumps):
    content = "\n".join(map(form, records)).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def _write_table(path, records, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
    return path


def _write_parquet(path, records):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    pq.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def _steam(record):
    """A line as the dump has it: texts with the u of Python 2."""
    return "{" + ", ".join(f"u{key!r}: {'u' * isinstance(value, str)}{value!r}" for key, value in record.items()) + "}"


def _pairs():
    return [(u, i) for u in range(USERS) for i in range(ITEMS)]


def _amazon_2018(folder):
    reviews = [
        {"overall": 5.0 - i % 2, "reviewerID": f"A{u}", "asin": f"B{i}", "reviewerName": "x", "summary": "s"}
        | ({"reviewText": f"A{u} on B{i}"} if (u, i) != (0, 0) else {})
        for u, i in _pairs()
    ]
    items = [
        {
            "category": ["Tools", "Garden &amp; Yard"],
            "description": ["A spade.", "Made of steel."],
            "feature": ["Long", "Light"],
            "title": f"Spade {i}",
            "brand": "Dig, Inc.",
            "asin": f"B{i}",
        }
        for i in range(ITEMS)
    ]
    items.append({**items[3], "title": "Spade, again"})
    described = Entity(
        "B3",
        "Spade 3",
        "Spade 3. Tools, Garden & Yard, Dig, Inc.. A spade. Made of steel. Long Light",
        ("Tools", "Garden & Yard", "Dig, Inc."),
        "A spade. Made of steel. Long Light",
    )
    return _write(folder / "Tools.json.gz", reviews), _write(folder / "meta_Tools.json.gz", items), described


def _amazon_2023(folder):
    reviews = [
        {
            "rating": 4.0,
            "title": "Best ever",
            "text": f"A{u} on B{i}",
            "asin": f"variant{u}{i}",
            "parent_asin": f"B{i}",
            "user_id": f"A{u}",
        }
        for u, i in _pairs()
    ]
    items = [
        {
            "main_category": "Tools",
            "title": f"Spade {i}",
            "features": ["Long"],
            "description": [],
            "store": "Digger",
            "categories": ["Garden", "Spades"],
            "details": {"Weight": "1 kg"},
            "parent_asin": f"B{i}",
        }
        for i in range(ITEMS)
    ]
    described = Entity("B3", "Spade 3", "Spade 3. Garden, Spades, Digger. Long", ("Garden", "Spades", "Digger"), "Long")
    return _write(folder / "Tools.jsonl.gz", reviews), _write(folder / "meta_Tools.jsonl.gz", items), described


def _yelp(folder):
    reviews = [
        {"review_id": f"r{u}{i}", "user_id": f"A{u}", "business_id": f"B{i}", "stars": 4.0, "text": f"A{u} on B{i}"}
        for u, i in _pairs()
    ]
    items = [
        {"business_id": f"B{i}", "name": f"Café {i}", "city": "Tampa", "stars": 3.5, "categories": "Food, Tea Rooms"}
        for i in range(ITEMS)
    ]
    described = Entity("B3", "Café 3", "Café 3. Food, Tea Rooms, Tampa", ("Food", "Tea Rooms", "Tampa"))
    return _write(folder / "review.json", reviews), _write(folder / "business.json", items), described


def _steam_dump(folder):
    reviews = [
        {"username": f"A{u}", "hours": 0.5, "product_id": f"B{i}", "date": "2017-12-17", "text": f"A{u} on B{i}"}
        for u, i in _pairs()
    ]
    items = [
        {
            "publisher": "Maker",
            "genres": ["Action"],
            "app_name": f"Game {i}",
            "title": f"Game {i}",
            "tags": ["Action", "Indie"],
            "price": 4.99,
            "early_access": False,
            "id": f"B{i}",
            "developer": "Maker",
        }
        for i in range(ITEMS)
    ]
    items.append({"publisher": "nobody", "early_access": True})
    described = Entity("B3", "Game 3", "Game 3. Action, Indie, Maker", ("Action", "Indie", "Maker"))
    return (
        _write(folder / "steam_reviews.json.gz", reviews, _steam),
        _write(folder / "steam_games.json.gz", items, _steam),
        described,
    )


@pytest.mark.parametrize("lay_out", [_amazon_2018, _amazon_2023, _yelp, _steam_dump])
def test_reviews_and_metadata_as_the_data_sets_have_them(tmp_path, lay_out):
    reviews, items, described = lay_out(tmp_path)
    found = read_table(reviews, {})
    assert (found.interactions.rating is None) == (lay_out is _steam_dump)
    source = Source(found.interactions, found.files, items=items, reviews=found.reviews)
    dataset = make_dataset(source, tmp_path / "d", name="d", k_core=5)
    assert [user.id for user in dataset.users] == [f"A{u}" for u in range(USERS)]
    assert [item.id for item in dataset.items] == [f"B{i}" for i in range(ITEMS)]
    assert dataset.items[3] == described
    rows, columns = dataset.matrix("train").nonzero()
    written = {(u, i): f"A{u} on B{i}" for u, i in zip(rows.tolist(), columns.tolist(), strict=True)}
    if lay_out is _amazon_2018:
        written.pop((0, 0), None)
    assert dataset.reviews == written
    assert len(written) < USERS * ITEMS  # nothing of what is held out
    made = dataset.provenance
    assert made.get("items_described_without_id", 0) == (lay_out is _steam_dump)
    assert made.get("items_described_again", 0) == (lay_out is _amazon_2018)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables_hold_texts_too(tmp_path, ending):
    reviews = [
        {"User_ID": u, "item_id": i, "rating": 5, "text": f"{u}, of {i}" if ending == "tsv" else f'{u}, of\n"{i}"'}
        for u, i in _pairs()
    ]
    items = [{"ITEM_ID": i, "Name": f"Thing {i}", "genres": "War|Drama", "description": "good"} for i in range(ITEMS)]
    paths = tmp_path / f"reviews.{ending}", tmp_path / f"items.{ending}"
    for path, records in zip(paths, (reviews, items), strict=True):
        if ending == "parquet":
            _write_parquet(path, records)
        else:
            _write_table(path, records, "\t" if ending == "tsv" else ",")
    found = read_table(paths[0], {})
    dataset = make_dataset(
        Source(found.interactions, [], items=paths[1], reviews=found.reviews), tmp_path / "d", name="d"
    )
    assert dataset.items[7] == Entity("7", "Thing 7", "Thing 7. War, Drama. good", ("War", "Drama"), "good")
    assert len(dataset.reviews) == dataset.matrix("train").nnz
    (user, item), text = next(iter(dataset.reviews.items()))
    assert text == (f"{user}, of {item}" if ending == "tsv" else f'{user}, of "{item}"')


def test_tags_of_nested_lists_and_texts():
    nested = {"categories": [["Books", "Fiction"], ["Books", "Crime"]], "brand": "Smith, Jones", "genre": "War, Drama"}
    assert description_of(nested)["tags"] == ["War", "Drama", "Books", "Fiction", "Crime", "Smith, Jones"]
    strange = {"categories": {"a": 1}, "title": None, "name": ["A", "name"], "description": [[["deep"]], "not"]}
    assert description_of(strange) == {"title": "A name", "tags": [], "description": "not", "text": ""}


def test_of_metadata_given_twice_the_first_with_a_title_is_kept(tmp_path):
    records = [
        {"asin": "a", "description": "bare"},
        {"asin": "a", "title": "First"},
        {"asin": "a", "title": "Second"},
        {"asin": "other", "title": "Not wanted"},
        {"asin": "other", "title": "Not wanted"},
        {"asin": "b"},
        {"title": "Nobody's"},
    ]
    path = _write(tmp_path / "meta.json", records)
    found, unused = read_those(path, "item", ["a", "b", "c"])
    assert found == [Entity("a", "First"), Entity("b")]
    assert unused == {
        "items_described_again": 2,
        "items_described_without_id": 1,
        "items_described_in_vain": 2,
        "items_not_described": 1,
        "item_ids_that_do_not_meet": {"interactions": ["c"], "descriptions": ["other"]},
    }
    with pytest.raises(DmrecError, match="no described item has an id .*look like 'x', the described like 'a'"):
        read_those(path, "item", ["x"])
    with pytest.raises(DmrecError, match=r"meta.json describes no user with an id .one of user, userid"):
        read_those(path, "user", ["x"])


def test_next_to_vectors_and_matrices_every_record_is_read(tmp_path):
    path = _write(tmp_path / "meta.json", [{"asin": "a", "name": "A"}, {"name": "B"}])
    assert read_all(path, "item", ids_required=False) == [Entity("a", "A"), Entity("1", "B")]
    with pytest.raises(DmrecError, match=r"meta.json, record 2: has no id of the item .asin"):
        read_all(path, "item", ids_required=True)
    _write(path, [{"id": "a\0"}])
    with pytest.raises(DmrecError, match="meta.json, record 1: the id 'a.x00' has characters that cannot be shown"):
        read_all(path, "item", ids_required=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user": ', "line 3: neither JSON nor a Python literal: '{\"user\":'"),
        ("{'user': __import__('os').mkdir('run')}", "line 3: neither JSON nor a Python literal: \"{'user': __import__"),
        ("{'user': [].__class__}", "line 3: neither JSON nor a Python literal"),
        ("{'user': " + "(" * 50_000, "line 3: neither JSON nor a Python literal"),
        ("{'user': " + "-" * 50_000 + "1}", "line 3: neither JSON nor a Python literal"),
        ("{'user': '" + "x" * (1 << 20) + "'}", "line 3: neither JSON nor a Python literal"),
        ("{[]: 1}", "line 3: neither JSON nor a Python literal"),
        ('{"user": ' + "[" * 200_000, "line 3: neither JSON nor a Python literal"),
        ("[1]", "line 3: must be one record, a JSON object, got list"),
        ("('user', 1)", "line 3: must be one record, a JSON object, got tuple"),
    ],
)
def test_damaged_and_malicious_lines(tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.jsonl"
    path.write_text('{"USER": NaN}\n\n' + line)
    records = iterate_records(path)
    assert next(records) == {"user": None}
    with pytest.raises(DmrecError, match=f"t.jsonl, {message}"):
        next(records)
    assert not (tmp_path / "run").exists()


def test_odd_escapes_in_literals_are_no_warnings(tmp_path):
    (tmp_path / "t.json").write_text("{'text': '100\\%'}")
    assert list(iterate_records(tmp_path / "t.json")) == [{"text": "100\\%"}]


def test_files_that_are_none(tmp_path):
    whole = gzip.compress(b'{"user": 1}\n' * 1000)
    (tmp_path / "t.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(DmrecError, match="t.jsonl.gz.*Compressed file ended"):
        list(iterate_records(tmp_path / "t.jsonl.gz"))
    (tmp_path / "t.json").write_bytes(b'{"user": "\xc3\xa9\xff"}')
    with pytest.raises(DmrecError, match="t.json, line 1: the byte 0xff is not UTF-8"):
        list(iterate_records(tmp_path / "t.json"))
    (tmp_path / "t.xml").write_text("")
    with pytest.raises(DmrecError, match="t.xml: the ending says what a table is; known: .jsonl, .json"):
        list(iterate_records(tmp_path / "t.xml"))
    with pytest.raises(DmrecError, match="none.json does not exist"):
        list(iterate_records(tmp_path / "none.json"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    pytest.importorskip("pyarrow")
    with pytest.raises(DmrecError, match="t.parquet is not a Parquet file"):
        list(iterate_records(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("records", "columns", "message"),
    [
        ([], {}, "r.jsonl has no records"),
        ([{"user": 1, "name": 2}], {}, r"has no column for the item .columns: user, name"),
        ([{"user": 1, "item": 2}], {"item": "Itm"}, "has no column 'itm'; did you mean 'item'"),
        ([{"user": 1, "item": 2}, {"user": 1}], {}, "column item: row 2 has no id .*and so have 1 of 2 rows"),
        ([{"user": 1, "item": 2, "rating": "good"}], {}, "column rating: 'good' in row 1 is not a number"),
        ([{"user": 1, "item": 2, "rating": 10**400}], {}, "in row 1 is not a number"),
        ([{"user": 1, "item": 2, "rating": None}], {}, "r.jsonl: no row has a rating; fill in the column"),
        ([{"user": 1, "item": 2}, {"user": 1, "item": 3, "rating": 5}], {}, "record 2: has a rating, unlike those"),
    ],
)
def test_bad_records_of_interactions(tmp_path, records, columns, message):
    with pytest.raises(DmrecError, match=message):
        read_interactions(_write(tmp_path / "r.jsonl", records), columns)


def test_of_several_names_the_first_that_the_first_record_has(tmp_path):
    records = [{"username": "a", "product_id": 1}, {"username": "b", "user_id": "76", "asin": 2, "parent_asin": 3}]
    with pytest.raises(DmrecError, match="record 2: has no 'product_id', by which the file names the item, but anoth"):
        read_interactions(_write(tmp_path / "r.jsonl", records))
    records[1]["product_id"] = 7
    found = read_interactions(_write(tmp_path / "r.jsonl", records))
    assert found.item.names[found.item.codes].tolist() == [1, 7]
    assert found.user.names[found.user.codes].tolist() == ["a", "b"]


def test_reviews_of_matrices_are_numbered_and_the_last_counts(tmp_path):
    paths = {}
    for shift, split in enumerate(("train", "valid", "test")):
        paths[split] = tmp_path / f"{split}.npz"
        sp.save_npz(paths[split], sp.csr_matrix(np.roll(np.eye(4), shift, 1)))
    records = [
        {"user": "0", "item": "0", "text": "too early"},
        {"user": 0, "item": 0, "text": "x\n" * 5000},
        {"user": "0", "item": "0", "text": ""},
        {"user": 1, "item": 2, "text": "held out for validation"},
        {"user": 9, "item": 2, "text": "of nobody"},
    ]
    reviews = read_reviews(_write(tmp_path / "r.jsonl", records), {})
    dataset = make_dataset(Source(read_splits(paths, {}).interactions, [], reviews=reviews), tmp_path / "d", name="d")
    assert dataset.reviews == {(0, 0): " ".join("x" * 1000)}
    assert inspect_texts(dataset)["reviews"] == {"reviews": 1, "of interactions": 0.25, "median characters": 1999}
    strangers = read_reviews(_write(tmp_path / "r.jsonl", [{"user": "a", "item": "b", "text": "c"}]), {})
    with pytest.raises(DmrecError, match="no review is by a user and of an item .* by 'a', of 'b', .*users like '0'"):
        make_dataset(Source(read_splits(paths, {}).interactions, [], reviews=strangers), tmp_path / "e", name="e")
    assert not (tmp_path / "e").exists()


def test_tables_that_are_split_give_the_reviews_of_training(tmp_path):
    paths = {}
    for split, item in (("train", "x"), ("valid", "y"), ("test", "z")):
        records = [{"who": u, "item": item, "text": f"{u} on {item}"} for u in "ab"]
        paths[split] = _write_table(tmp_path / f"{split}.csv", records)
    dataset = make_dataset(read_splits(paths, {"user": "who"}), tmp_path / "d", name="d")
    assert dataset.reviews == {(0, 0): "a on x", (1, 0): "b on x"}


def test_the_command_line_joins_reviews_and_says_what_share_has_texts(tmp_path):
    ratings = _write_table(tmp_path / "ratings.csv", [{"user": f"A{u}", "item": f"B{i}"} for u, i in _pairs()])
    items = _write(tmp_path / "meta.jsonl", [{"asin": f"B{i}", "description": "d"} for i in range(ITEMS // 2)])
    reviews = _write(
        tmp_path / "r.jsonl", [{"reviewerID": f"A{u}", "asin": f"B{i}", "reviewText": "t"} for u, i in _pairs() if u]
    )
    out = tmp_path / "d"
    options = ["--items", items, "--reviews", reviews, "--out", out]
    result = CliRunner().invoke(app, [str(part) for part in ("data", "import", ratings, *options)])
    assert result.exit_code == 0, result.output
    dataset = open_dataset(out)
    assert set(dataset.provenance["source"]) == {"ratings.csv", "meta.jsonl", "r.jsonl"}
    texts = dataset.matrix("train")[:, : ITEMS // 2].nnz / dataset.matrix("train").nnz
    reviewed = dataset.matrix("train")[1:].nnz / dataset.matrix("train").nnz
    assert 0 < reviewed < 1
    assert f"50.0% of items ({texts:.1%} of training interactions) have a text, {reviewed:.1%} of" in result.output
    assert "of users" not in result.output
    result = CliRunner().invoke(app, ["data", "inspect", str(out)])
    assert "reviews of training interactions" in result.output
    assert f"{reviewed:.4f}" in result.output


def test_descriptions_and_reviews_are_found_by_the_name_that_the_interactions_use(tmp_path):
    pairs = _pairs()
    ratings = _write_table(tmp_path / "t.csv", [{"customer": f"A{u}", "asin": i + 1} for u, i in pairs])
    items = [{"id": i, "item_id": 99, "asin": i + 1, "title": f"Thing {i + 1}"} for i in range(ITEMS)]
    users = [{"id": f"A{5 - u}", "customer": f"A{u}", "title": f"User {u}"} for u in range(USERS)]
    reviews = [
        {"user_id": f"A{5 - u}", "customer": f"A{u}", "item_id": 1, "asin": i + 1, "text": f"A{u} {i + 1}"}
        for u, i in pairs
    ]
    described = [
        *("--items", _write_table(tmp_path / "items.csv", items), "--users", _write(tmp_path / "users.jsonl", users)),
        *("--reviews", _write(tmp_path / "r.jsonl", reviews)),
    ]
    given = ["data", "import", ratings, "--user-column", "customer", *described, "--out", tmp_path / "d"]
    result = CliRunner().invoke(app, [str(part) for part in given])
    assert result.exit_code == 0, result.output
    dataset = open_dataset(tmp_path / "d")
    assert [item.title for item in dataset.items] == [f"Thing {i + 1}" for i in range(ITEMS)]
    assert [user.title for user in dataset.users] == [f"User {u}" for u in range(USERS)]
    assert len(dataset.reviews) == dataset.matrix("train").nnz
    assert all(text == f"A{user} {item + 1}" for (user, item), text in dataset.reviews.items())
    items = _write_table(tmp_path / "items.csv", [{"id": i, "item_id": i + 1, "title": "T"} for i in range(ITEMS)])
    assert [item.id for item in read_those(items, "item", ["8"])[0]] == ["8"]


def test_columns_are_found_for_matrices_too(tmp_path):
    paths = []
    for shift, split in enumerate(("train", "valid", "test")):
        paths += [f"--{split}", str(tmp_path / f"{split}.npz")]
        sp.save_npz(paths[-1], sp.csr_matrix(np.roll(np.eye(4), shift, 1)))
    items = _write_table(tmp_path / "items.csv", [{"item_id": 3 - i, "sku": i, "title": f"T{i}"} for i in range(4)])
    given = ["data", "import", *paths, "--items", str(items), "--item-column", "SKU", "--out", str(tmp_path / "d")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert [item.title for item in open_dataset(tmp_path / "d").items] == ["T0", "T1", "T2", "T3"]
    refused = CliRunner().invoke(app, [*given, "--force", "--user-column", "u"])
    assert "--user-column does nothing" in str(refused.exception)


def test_reviews_late_in_a_file_are_found_and_those_of_dropped_ratings_are_not(tmp_path):
    loved = [{"user": u, "item": i, "stars": 5} for u in range(50) for i in range(30)]
    loved[-1]["text"] = "the last"
    late = read_table(_write(tmp_path / "late.jsonl", loved), {})
    assert [text for *_, text, _ in late.reviews if text] == ["the last"]
    records = [{"user": u, "item": i, "stars": 5, "text": "love it"} for u, i in _pairs()]
    records += [{"user": u, "item": i, "stars": 1, "text": "hate it"} for u, i in _pairs()]
    found = read_table(_write(tmp_path / "r.jsonl", records), {})
    dataset = make_dataset(found, tmp_path / "d", name="d")
    assert len(dataset.reviews) == dataset.matrix("train").nnz
    assert set(dataset.reviews.values()) == {"love it"}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_without_a_rating_are_left_out_and_counted(tmp_path, ending):
    write = {"csv": _write_table, "jsonl": _write, "parquet": _write_parquet}[ending]
    rows = [{"user": u, "item": i, "rating": 5} for u, i in _pairs()]
    rows += [{"user": u, "item": 77, "rating": None} for u in range(3)]
    path = write(tmp_path / f"t.{ending}", rows)
    result = CliRunner().invoke(app, ["data", "import", str(path), "--out", str(tmp_path / "d")])
    assert result.exit_code == 0, result.output
    assert "3 rows without a rating were left out" in result.output
    dataset = open_dataset(tmp_path / "d")
    assert dataset.n_items == ITEMS
    assert {name: dataset.provenance[name] for name in ("rows", "rows_without_rating")} == {
        "rows": USERS * ITEMS,
        "rows_without_rating": 3,
    }


@pytest.mark.parametrize("content", ['[{"user": 1}, {"user": 2}]', '[\n{"user": 1},\n{"user": 2}\n]'])
def test_an_array_is_read(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    assert list(iterate_records(tmp_path / "t.json")) == [{"user": 1}, {"user": 2}]

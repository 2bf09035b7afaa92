"""Tables as people have them: each is read as what it means, or refused in one line that says what to do."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset
from dmrec.data.sources.columns import choose_columns
from dmrec.data.sources.summary import describe_import
from dmrec.data.sources.values import clean_ids, number_of
from dmrec.errors import DmrecError

USERS, ITEMS = 8, 8
PAIRS = [(u, i) for u in range(1, USERS + 1) for i in range(1, ITEMS + 1) if (u + i) % 4]  # 48, 6 of each user
ROWS = [(f"u{u}", f"i{i}", 4 + i % 2) for u, i in PAIRS]


def text(rows=ROWS, header=("user_id", "item_id", "rating"), delimiter=",", end="\n"):
    return end.join(delimiter.join(map(str, row)) for row in (header, *rows)) + end


def imported(folder, *arguments):
    """The dataset that `dmrec data import` makes, or its error."""
    out = folder / "imported"
    command = ["data", "import", *map(str, arguments), "--out", str(out), "--k-core", "1"]
    if any(str(each).startswith("--train") for each in arguments):
        command = command[:-2]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    return None if stopped.value.code else open_dataset(out)


def check_whole(dataset):
    """All of `ROWS` is there."""
    assert dataset is not None
    assert sum(dataset.manifest["interactions"].values()) == len(ROWS)
    assert {user.id for user in dataset.users} == {f"u{u}" for u in range(1, USERS + 1)}
    assert {item.id for item in dataset.items} == {f"i{i}" for i in range(1, ITEMS + 1)}


def zipped(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


INTER = "user_id:token\titem_id:token\n"
COMMA = [(user, item, f"{rating},5") for user, item, rating in ROWS]
RECORDS = [{"user_id": user, "item_id": item, "rating": rating} for user, item, rating in ROWS]
COLUMNS = {name: {str(n): row[name] for n, row in enumerate(RECORDS)} for name in RECORDS[0]}
READ = {
    "semicolons.csv": text(delimiter=";"),
    "decimal-comma.csv": text(COMMA, delimiter=";"),
    "sep-line.csv": "sep=;\n" + text(COMMA, delimiter=";"),
    "sep-line-bom.csv": "\ufeffsep=|\r\n" + text(delimiter="|", end="\r\n"),
    "pipes.csv": text(delimiter="|"),
    "tabs-in.csv": text(delimiter="\t"),
    "commas-in.tsv": text(),
    "colons.dat": text(delimiter="::"),
    "words.txt": text(),
    "UPPER.CSV": text(),
    "utf16.csv": text().encode("utf-16"),
    "utf16le.csv": text().encode("utf-16-le"),
    "utf16be-bom.csv": b"\xfe\xff" + text().encode("utf-16-be"),
    "utf32.csv": text().encode("utf-32"),
    "bom.csv": text().encode("utf-8-sig"),
    "cr.csv": text(end="\r"),
    "crlf.csv": text(end="\r\n"),
    "ctrl-z.csv": text() + "\x1a",
    "ctrl-z-in-line.csv": text().rstrip("\n") + "\x1a\x1a",
    "blank-first.csv": "\n \n" + text(),
    "blank-between.csv": text().replace("\nu2", "\n\n,,\nu2"),
    "remarks.csv": "# made by a program\n# in 2026\n" + text(),
    "remark-is-header.csv": "# " + text(),
    "header-again.csv": text() + text(ROWS[:0]),
    "header-again-bom.csv": text(ROWS[:9]) + "\ufeff" + text(ROWS[9:]),
    "recbole.inter": text(header=("user_id:token", "item_id:token", "rating:float"), delimiter="\t"),
    "again.inter": 2 * INTER + "".join(f"{u}\t{i}\n" for u, i, _ in ROWS),
    "quoted.tsv": text([(f'"{u}"', f'"{i}"', r) for u, i, r in ROWS], ('"user_id"', '"item_id"', '"rating"'), "\t"),
    "quoted.csv": text([(f'"{u}"', f'"{i}"', r) for u, i, r in ROWS]),
    "spaces.csv": text([(f" {u}\u00a0", f"\u200b{i} ", r) for u, i, r in ROWS]),
    "some-spaces.csv": text(
        [(f"{u} " if n % 2 else u, f"\ufeff{i}" if n % 3 else i, r) for n, (u, i, r) in enumerate(ROWS)]
    ),
    "plain-called.csv.gz": text(),
    "twice.csv.gz": gzip.compress(gzip.compress(text().encode())),
    "gzip-called.csv": gzip.compress(text().encode()),
    "b.csv.bz2": bz2.compress(text().encode()),
    "x.csv.xz": lzma.compress(text().encode()),
    "z.csv.zip": zipped("t.csv", text()),
    "zip-called.csv": zipped("t.csv", text()),
    "array.json": json.dumps(RECORDS),
    "pretty-array.json": json.dumps(RECORDS, indent=2),
    "pretty-objects.json": "\n".join(json.dumps(each, indent=1) for each in RECORDS),
    "columns.json": json.dumps(COLUMNS),
    "columns-of-lists.json": json.dumps({name: list(each.values()) for name, each in COLUMNS.items()}, indent=1),
    "wrapped.json": json.dumps({"count": 48, "data": RECORDS}),
    "lines-called.txt": "\n".join(map(json.dumps, RECORDS)),
    "python-2.json": "\n".join(
        f"{{u'user_id': u'{u}', u'item_id': '{i}', 'rating': {r}L, 'x': nan}}" for u, i, r in ROWS
    ),
    "oid.jsonl": "\n".join(json.dumps({"user_id": {"$oid": u}, "item_id": i, "rating": r}) for u, i, r in ROWS),
    "number-long.jsonl": "\n".join(
        json.dumps({"user_id": u, "item_id": i, "rating": {"$numberInt": "4"}["$numberInt"]}) for u, i, _ in ROWS
    ),
}


@pytest.mark.parametrize("name", READ)
def test_is_read(name, tmp_path):
    content = READ[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    check_whole(imported(tmp_path, tmp_path / name))


def test_zstd_and_folders_of_parquet_parts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    (tmp_path / "t.csv.zst").write_bytes(pyarrow.compress(text().encode(), "zstd", asbytes=True))
    check_whole(imported(tmp_path, tmp_path / "t.csv.zst"))
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((RECORDS[:20], RECORDS[20:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), tmp_path / f"parts/part-{number}.parquet")
    check_whole(imported(tmp_path, tmp_path / "parts", "--force"))
    parquet.write_table(pyarrow.table({"user_id": ["a"], "item_id": ["b"]}), tmp_path / "parts/z.parquet")
    assert imported(tmp_path, tmp_path / "parts", "--force") is None


REFUSED = {
    "page.csv": ("\n<!DOCTYPE html><html><body>", "is an HTML page, not a table: download the file itself"),
    "sheet.csv": (zipped("[Content_Types].xml", "x"), "is a spreadsheet (a zip file): export it as CSV"),
    "old.csv": (b"\xd0\xcf\x11\xe0 etc", "is an old spreadsheet (.xls): export it as CSV"),
    "base.csv": (b"SQLite format 3\0 etc", "is an SQLite database: export the table as CSV"),
    "parquet.csv": (b"PAR1 etc", "is a Parquet file: rename it to .parquet"),
    "both.csv": (
        text(header=("user", "item", "user_id")),
        "has the columns 'user' and 'user_id', and either may be the user",
    ),
    "twice.csv": (text(header=("user", "rating", "rating")), "has the columns 'rating' and 'rating'"),
    "case.csv": (
        text([(*row, 1) for row in ROWS], ("user", "item", "rating", "Rating")),
        "has the columns 'rating' and 'Rating', and either may be the rating; name it: --rating-column",
    ),
    "two.csv": (
        text([(*row, 1) for row in ROWS], ("user", "item", "score", "stars")),
        "has the columns 'score' and 'stars', and either may be the rating",
    ),
    "no-header.csv": (
        text(header=("1", "2", "4.0")),
        "the first line looks like data: --no-header --columns user,item,rating",
    ),
    "looks.csv": (
        text([(u, i, r - 3) for u, i, r in ROWS], ("user", "item", "liked")),
        "has no column of ratings by name, but 'liked' looks like one (values such as 2, 1): choose it with --rating-c",
    ),
    "scale.csv": (
        text([(u, i, n % 5 + 1) for n, (u, i, _) in enumerate(ROWS)], ("user", "item", "mood")),
        "'mood' looks like one",
    ),
    "missing.csv": (
        text([("NULL", i, r) for _, i, r in ROWS]),
        "column user_id: row 1 has no id ('NULL'), and so have 48 of 48",
    ),
    "underscore.csv": (text([(u, i, "4_5") for u, i, _ in ROWS]), "column rating: '4_5' in row 1 is not a number"),
    "wide.csv": (text([(u, i, "\uff14") for u, i, _ in ROWS]), "column rating: '\uff14' in row 1 is not a number"),
    "mixed-decimals.csv": (
        text([*COMMA[:3], ("u1", "i9", "4.5")], delimiter=";"),
        "'4.5' in row 4 is not a number with the decimal sign ',', which the column has; name it: --decimal",
    ),
    "broken.csv": (
        "user,item\nÄ,1\n".encode() + b"b\xe4,2\n",
        "line 3: the byte 0xe4 is not UTF-8; name the encoding: --encoding",
    ),
    "object.jsonl": (
        json.dumps({"user_id": {"id": 1, "name": "Ada"}, "item_id": 2}),
        "record 1, field user_id: an id must be text or a whole number, got dict {'id': 1, 'name': 'Ada'}",
    ),
    "list.jsonl": (json.dumps({"user_id": [1], "item_id": 2}), "an id must be text or a whole number, got list [1]"),
    "large.jsonl": (
        json.dumps({"user_id": 1e16, "item_id": 2}),
        "a floating-point number beyond 2^53, which has lost digits",
    ),
    "large.csv": ("user,item\n1e+16,1\n2.0,2\n", "the id 1e+16 is a floating-point number beyond 2^53"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(name, tmp_path, capsys):
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert imported(tmp_path, tmp_path / name) is None
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert printed.startswith("error: ")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("header", "rating"),
    [
        (("User-ID", "ISBN", "Book-Rating"), "Book-Rating"),
        (("user id", "Item ID", "review/score"), "review/score"),
        (("userId", "movieId", "ratings"), "ratings"),
        (("reviewerID", "asin", "user_rating"), "user_rating"),
        (("uid", "iid", "Rating (1-5)"), "Rating (1-5)"),
        (("Users", "Items", "Stars"), "Stars"),
        (("USER_ID", "ITEM_ID", "SCORE"), "SCORE"),
        (("customer_id", "product_id", "my_rating"), "my_rating"),
        (("user", "item", "ReviewScore"), "ReviewScore"),
    ],
)
def test_names_are_matched_loosely(header, rating, tmp_path, capsys):
    rows = [(u, i, 1 if n % 3 == 0 else 5) for n, (u, i, _) in enumerate(ROWS)]
    (tmp_path / "t.csv").write_text(text(rows, header))
    dataset = imported(tmp_path, tmp_path / "t.csv")
    assert dataset.provenance["below_min_rating"] == 16
    printed = capsys.readouterr().err
    assert f"columns: user = '{header[0]}', item = '{header[1]}', rating = '{rating}'" in printed
    assert "16 rows have a rating below 3 and were left out" in printed


def test_columns_that_are_not_ratings(tmp_path, capsys):
    rows = [(u, i, n % 5 + 1, 1_600_000_000 + n, "shop") for n, (u, i, _) in enumerate(ROWS)]
    (tmp_path / "t.csv").write_text(text(rows, ("user", "item", "quantity", "time", "channel")))
    dataset = imported(tmp_path, tmp_path / "t.csv")
    check_whole(dataset)
    printed = capsys.readouterr().err
    assert "time = 'time'; not used: 'quantity', 'channel'" in printed
    assert "no column of ratings: every row counts as an interaction" in printed
    rows = [(u, i, n % 5 + 1) for n, (u, i, _) in enumerate(ROWS)]
    (tmp_path / "m.csv").write_text(text(rows, ("user", "item", "mood")))
    check_whole(imported(tmp_path, tmp_path / "m.csv", "--no-rating", "--force"))
    chosen = imported(tmp_path, tmp_path / "m.csv", "--rating-column", "mood", "--force")
    assert chosen.provenance["below_min_rating"] == 20
    assert imported(tmp_path, tmp_path / "m.csv", "--rating-column", "mood", "--no-rating", "--force") is None


def test_what_is_dropped_is_counted_and_said(tmp_path, capsys):
    bad = [("", "i1", 5), ("NaN", "i2", 5), ("\\N", "i3", 5), ("u1", "None", 5), ("u2", " ", 4), ("u1", "i9", "")]
    rows = [*ROWS[:10], *bad, *ROWS[10:]]
    (tmp_path / "t.csv").write_text(text(rows) + text(ROWS[:0]))
    dataset = imported(tmp_path, tmp_path / "t.csv")
    check_whole(dataset)
    notes = dataset.provenance["read"]
    assert (notes["rows_without_user"], notes["rows_without_item"], notes["repeated_headers"]) == (3, 2, 1)
    assert dataset.provenance["rows_without_rating"] == 1
    printed = capsys.readouterr().err
    for line in describe_import(dataset.provenance):
        assert line in printed
    assert "3 rows without a user were left out" in printed


def test_numbers_that_are_ids(tmp_path):
    assert clean_ids(["1.0", "2.", "3", "-4.0"], "t") == ["1", "2", "3", "-4"]
    assert clean_ids(["1.0", "a"], "t") == ["1.0", "a"]
    assert clean_ids(["1.5", "2.0"], "t") == ["1.5", "2.0"]
    assert clean_ids(["007", "1e3"], "t") == ["007", "1000"]
    assert clean_ids([" a", "NULL", None, "nan", "n"], "t") == ["a", None, None, None, "n"]
    assert clean_ids(['"a"', '"b""c"'], "t") == ["a", 'b"c']
    assert clean_ids(['"a"', "b"], "t") == ['"a"', "b"]
    assert [number_of(each) for each in ("4", " 4.5 ", "1e2", ".5", "4_5", "\u0664", "nan", "inf", True, 10**400)] == [
        *(4, 4.5, 100, 0.5, None, None, None, None, None, None)
    ]
    rows = [{"user": 1 if n % 2 else 1.0, "item": float(n)} for n in range(9)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [user.id for user in imported(tmp_path, tmp_path / "t.jsonl", "--split", "leave-one-out").users] == ["1"]


def test_ids_of_both_sides_meet_or_some_of_each_are_named(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(text([(u, i[1:], r) for u, i, r in ROWS]))
    items = [{"id": n if n % 2 else float(n), "title": f"thing {n}"} for n in range(1, ITEMS + 1)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    dataset = imported(tmp_path, tmp_path / "t.csv", "--items", tmp_path / "items.jsonl")
    assert all(item.title for item in dataset.items)
    items = [{"id": n if n < 5 else f"no-{n}", "title": f"thing {n}"} for n in range(1, ITEMS + 1)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    capsys.readouterr()
    imported(tmp_path, tmp_path / "t.csv", "--items", tmp_path / "items.jsonl", "--force")
    printed = capsys.readouterr().err
    assert (
        "4 items of the interactions are not described, such as '5', '6', '7'; and 4 descriptions have ids" in printed
    )
    assert "such as 'no-5', 'no-6', 'no-7'" in printed
    users = "id,text\nu1 ,one\n\u00a0u2,two\n"
    (tmp_path / "users.csv").write_text(users)
    dataset = imported(tmp_path, tmp_path / "t.csv", "--users", tmp_path / "users.csv", "--force")
    assert [user.text for user in dataset.users][:2] == ["one", "two"]


@pytest.mark.parametrize(
    "cell",
    [
        '[{"id": 16, "name": "Animation"}, {"id": 35, "name": "Comedy"}]',
        "[{'id': 16, 'name': 'Animation'}, {'id': 35, 'name': 'Comedy'}]",
        '["Animation", "Comedy"]',
        "['Animation', 'Comedy']",
        "Animation, Comedy",
        "Animation|Comedy|nan| |",
        '{"name": "Animation, Comedy"}',
    ],
)
def test_tags_in_a_cell(cell, tmp_path):
    from dmrec.data.sources.columns import description_of

    tags = description_of({"genres": cell})["tags"]
    assert tags == (["Animation", "Comedy"] if "{" not in cell[:1] else ["Animation, Comedy"])


def test_parquet_of_any_type(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    users, items, ratings = zip(*ROWS, strict=True)
    path = tmp_path / "t.parquet"

    def written(user, **more):
        columns = {"user_id": user, "item_id": list(items), "rating": list(ratings), **more}
        parquet.write_table(pyarrow.table(columns), path)
        return imported(tmp_path, path, "--force")

    check_whole(written([user.encode() for user in users]))
    check_whole(written(pyarrow.array(users).dictionary_encode()))
    check_whole(written([{"$oid": user} for user in users]))
    check_whole(written([{"inner": {"id": user}} for user in users]))
    check_whole(written(list(users), rating=[str(rating) for rating in ratings]))
    check_whole(written(list(users), tags=[["a", "b"]] * len(users)))
    numbers = written([float(user[1:]) for user in users])
    assert {user.id for user in numbers.users} == {str(u) for u in range(1, USERS + 1)}
    assert written([[user] for user in users]) is None
    assert written([{"id": 1, "name": user} for user in users]) is None
    assert written([1e16 + 2 * int(user[1:]) for user in users]) is None
    with_gaps = written([user if n % 10 else None for n, user in enumerate(users)])
    assert with_gaps.provenance["read"]["rows_without_user"] == 5


def test_splits_must_mean_the_same(tmp_path, capsys):
    for name in ("train", "valid", "test"):
        header = ("user", "item") if name == "valid" else ("user", "item", "rating")
        rows = [row[: len(header)] for row in ROWS[{"train": 0, "valid": 1, "test": 2}[name] :: 3]]
        (tmp_path / f"{name}.csv").write_text(text(rows, header))
    parts = [each for name in ("train", "valid", "test") for each in (f"--{name}", tmp_path / f"{name}.csv")]
    assert imported(tmp_path, *parts) is None
    assert "train and test have ratings and valid none, but the three must mean the same" in capsys.readouterr().err
    check_whole(imported(tmp_path, *parts, "--no-rating"))


@pytest.mark.parametrize("kind", ["uint8", "int8", "float16", "bool"])
def test_matrices_of_narrow_counts(kind, tmp_path):
    """Repeated entries whose sum would wrap around to 0 are interactions."""
    paths = []
    for shift, name in enumerate(("train", "valid", "test")):
        rows, columns = np.repeat(np.arange(4), 2), np.repeat((np.arange(4) + shift) % 4, 2)
        matrix = sp.coo_matrix((np.full(8, 128 if kind == "uint8" else 1), (rows, columns)), shape=(4, 4))
        if kind == "float16":
            matrix = matrix.tocsr()
        matrix.data = matrix.data.astype(kind)
        sp.save_npz(tmp_path / f"{name}.npz", matrix)
        paths += [f"--{name}", tmp_path / f"{name}.npz"]
    assert imported(tmp_path, *paths).manifest["interactions"] == {"train": 4, "valid": 4, "test": 4}


def test_formats_can_be_given(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(text(COMMA, delimiter=";").split("\n", 1)[1])
    options = ["--no-header", "--columns", "user,item,rating", "--delimiter", ";", "--decimal", ","]
    check_whole(imported(tmp_path, tmp_path / "t.csv", *options))
    assert "found out: decimal ',', delimiter ';', header 'none'" in capsys.readouterr().err.replace(
        "delimiter ';', decimal ','", "decimal ',', delimiter ';'"
    )
    for bad, message in (
        (["--no-header"], "--no-header needs the names of the columns: --columns user,item,rating,time"),
        (["--decimal", "x"], "--decimal must be . or , got 'x'"),
        (["--encoding", "utf-9"], "'utf-9' is not known"),
        (["--columns", "user,item"], "--columns names 2 columns, but the first line of"),
    ):
        assert imported(tmp_path, tmp_path / "t.csv", *bad, "--force") is None
        assert message in capsys.readouterr().err
    (tmp_path / "l.csv").write_bytes(text([(f"é{u}", i, r) for u, i, r in ROWS]).encode("cp437"))
    dataset = imported(tmp_path, tmp_path / "l.csv", "--encoding", "cp437", "--force")
    assert dataset.users[0].id == "éu1"


def test_movielens_and_recbole_as_they_are(tmp_path):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    lines = [f"{u}::{i}::{4}::9783{u}{i}" for u, i in PAIRS] + ["::3::5::97833", "4::::5::97833"]
    (folder / "ratings.dat").write_text("\n".join(lines))
    (folder / "movies.dat").write_text("".join(f"{i}::Alien:: Part {i} (1999)::Drama|War\n" for i in range(1, 9)))
    dataset = imported(tmp_path, folder)
    assert dataset.items[0].title == "Alien:: Part 1 (1999)"
    assert dataset.items[0].tags == ("Drama", "War")
    assert dataset.provenance["read"]["rows_without_user"] == dataset.provenance["read"]["rows_without_item"] == 1
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "u.data").write_text(
        "\ufeffuser_id\titem_id\trating\ttimestamp\n" + "".join(f"{u}\t{i}\t4\t9\n" for u, i in PAIRS)
    )
    assert [user.id for user in imported(tmp_path, folder, "--force").users] == [str(u) for u in range(1, 9)]
    folder = tmp_path / "yelp"
    folder.mkdir()
    (folder / "yelp.inter").write_text(
        "user_id:token\tbusiness_id:token\tstars:float\n" + "".join(f"u{u}\ti{i}\t5\n" for u, i in PAIRS)
    )
    (folder / "yelp.item").write_text(
        "business_id:token\titem_name:token_seq\n" + "".join(f"i{i}\tPlace {i}\n" for i in range(1, 9))
    )
    for options in ((), ("--item-column", "business_id")):
        dataset = imported(tmp_path, folder, *options, "--force")
        check_whole(dataset)
        assert dataset.items[0].text
    folder = tmp_path / "ml-25m"
    folder.mkdir()
    (folder / "ratings.csv").write_text(
        text([(u, i, r, 9) for u, i, r in ROWS], ("userId", "MovieID", "rating", "timestamp"))
    )
    (folder / "movies.csv").write_text(
        "MovieID,title,genres\n" + "".join(f"i{i},T{i},(no genres listed)\n" for i in range(1, 9))
    )
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,i1,nan,1\n1,i1, ,1\n1,i1,fun,1\n")
    dataset = imported(tmp_path, folder, "--force")
    assert dataset.items[0].text == "T1. Tags: fun."
    assert dataset.items[1].text == "T2."


def test_the_true_reason_why_nothing_is_held_out(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("user,item\n" + "".join(f"u1,i{i}\n" for i in range(10)))
    assert imported(tmp_path, tmp_path / "t.csv") is None
    assert "4 were chosen for validation and test, but their items have no other interaction" in capsys.readouterr().err


def test_wanted_columns_are_found_by_plain_names():
    assert choose_columns("t", ["Who", "What Thing"], {"user": "who", "item": "what_thing"}) == {
        "user": "Who",
        "item": "What Thing",
    }
    with pytest.raises(DmrecError, match="t has 2 columns 'who'; rename one of them"):
        choose_columns("t", ["who", "who", "item"], {"user": "who"})


def test_the_page_shows_the_messages():
    """docs/data.md has the message of each kind of refusal, as the tests above see it."""
    page = " ".join((Path(__file__).parents[2] / "docs/data.md").read_text().split())
    siblings = {
        "two.csv",
        "twice.csv",
        "scale.csv",
        "wide.csv",
        "list.jsonl",
        "large.jsonl",
    }  # of kinds shown by others
    for name, (_, message) in REFUSED.items():
        assert name in siblings or message.removesuffix("-c") in page, message

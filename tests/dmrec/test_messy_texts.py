"""Descriptions as people have them: unknown headers, ids in another field, HTML."""

import json

import pytest
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset

PAIRS = [(u, i) for u in range(1, 9) for i in range(1, 9) if (u + i) % 4]
ROWS = [(f"u{u}", f"i{i}", 4 + i % 2) for u, i in PAIRS]


def text(rows=ROWS, header=("user_id", "item_id", "rating"), delimiter=","):
    return "".join(delimiter.join(map(str, row)) + "\n" for row in (header, *rows))


def imported(folder, *arguments):
    """The dataset that `dmrec data import` makes; None if it is refused."""
    with pytest.raises(SystemExit) as stopped:
        main(["data", "import", *map(str, arguments), "--out", str(folder / "imported"), "--k-core", "1"])
    return None if stopped.value.code else open_dataset(folder / "imported")


def test_unknown_headers_of_descriptions(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(text())
    rows = [(f"i{i}", f"Ding {i}", "rot, rund", f"Beschreibung {i}") for i in range(1, 9)]
    header = ("id", "Bezeichnung", "Warengruppe", "Beschreibung")
    (tmp_path / "items.csv").write_text(text(rows, header, ";"), encoding="cp1252")
    command = [tmp_path / "t.csv", "--items", tmp_path / "items.csv", "--force"]
    assert imported(tmp_path, *command) is None
    assert (
        "no column is known as a title, tags, a description or a text (columns: id, bezeichnung"
        in capsys.readouterr().err
    )
    named = ["--title-column", "Bezeichnung", "--tags-column", "Warengruppe", "--description-column", "Beschreibung"]
    item = imported(tmp_path, *command, *named).items[0]
    assert (item.title, item.tags, item.description) == ("Ding 1", ("rot", "rund"), "Beschreibung 1")
    assert imported(tmp_path, tmp_path / "t.csv", "--title-column", "x", "--force") is None


def test_the_field_with_the_ids_is_the_one_that_meets_them(tmp_path):
    (tmp_path / "t.csv").write_text(text())
    for fields in ({"item": "a lamp", "id": "i{}"}, {"product": "no", "item_id": "i{}"}, {"id": "{}", "asin": "i{}"}):
        items = [{name: value.format(i) for name, value in fields.items()} | {"title": f"T{i}"} for i in range(1, 9)]
        (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
        dataset = imported(tmp_path, tmp_path / "t.csv", "--items", tmp_path / "items.jsonl", "--force")
        assert [item.title for item in dataset.items] == [f"T{i}" for i in range(1, 9)]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<p>A <b>lamp</b>&nbsp;&amp; more</p>", "A lamp & more"),
        ("<script>alert('x')</script>A lamp<!-- no -->", "A lamp"),
        ("<style>p { color: red }</style><br/>A<br>lamp", "A lamp"),
        ("5 < 6, I <3 it, a<b", "5 < 6, I <3 it, a<b"),
        ("&lt;b&gt; is shown", "<b> is shown"),
    ],
)
def test_texts_lose_their_html(written, read, tmp_path):
    (tmp_path / "t.csv").write_text(text())
    items = [{"id": f"i{i}", "title": written, "description": written, "tags": [written]} for i in range(1, 9)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    item = imported(tmp_path, tmp_path / "t.csv", "--items", tmp_path / "items.jsonl").items[0]
    assert (item.title, item.description, item.tags) == (read, read, (read,))

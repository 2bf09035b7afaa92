"""Sequences as programs for generative recommendation publish them, and what can be wrong with them."""

import json

import numpy as np
import pytest
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset

HISTORIES = {"7": ["b", "a", "c", "d"], "9": ["a", "d", "b"], "11": ["c", "b", "a", "d"]}


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def imported(source, out, *options):
    command = ["data", "import", source, "--split", "leave-one-out", "--k-core", 1, "--out", out, *options]
    assert run(*command) == 0
    return open_dataset(out)


def sequences_of(dataset):
    found = dataset.sequences
    ids = [item.id for item in dataset.items]
    return {user.id: [ids[i] for i in found.of_user(row)] for row, user in enumerate(dataset.users)}


@pytest.mark.parametrize("between", [" ", "\t", "  "])
def test_a_line_for_each_user(between, tmp_path):
    lines = [between.join([user, *items]) for user, items in HISTORIES.items()]
    (tmp_path / "s.txt").write_text("\n".join(lines) + "\n\n")
    dataset = imported(tmp_path / "s.txt", tmp_path / "d", "--sequences")
    assert sequences_of(dataset) == HISTORIES
    assert dataset.manifest["interactions"] == {"train": 5, "valid": 3, "test": 3}


def letter(folder, **changed):
    folder.mkdir(exist_ok=True)
    codes = {item: [f"<a_{n % 2}>", f"<b_{n}>"] for n, item in enumerate("abcd")}
    texts = {item: {"title": f"Thing {item}", "description": f"words of {item}"} for item in "abcd"}
    files = {"Set.inter.json": HISTORIES, "Set.index.json": codes, "Set.item.json": texts} | changed
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_layout_of_letter(tmp_path):
    dataset = imported(letter(tmp_path / "Set"), tmp_path / "d")
    assert sequences_of(dataset) == HISTORIES
    assert {item.id: item.title for item in dataset.items} == {item: f"Thing {item}" for item in "abcd"}
    codes = dataset.codes()
    assert codes.name == "given"
    assert {item.id: codes.codes[row].tolist() for row, item in enumerate(dataset.items)} == {
        item: [n % 2, n] for n, item in enumerate("abcd")
    }


def etegrec(folder, **changed):
    folder.mkdir(exist_ok=True)
    rows = {"train": [], "valid": [], "test": []}
    for items in HISTORIES.values():
        rows["test"].append({"inter_history": items[:-1], "target_id": items[-1]})
        rows["valid"].append({"inter_history": items[:-2], "target_id": items[-2]})
        rows["train"] += [{"inter_history": items[:n], "target_id": items[n]} for n in range(1, len(items) - 2)]
    files = {f"Set.{split}.jsonl": "\n".join(map(json.dumps, each)) for split, each in rows.items()}
    files |= {"Set.emb_map.json": json.dumps({item: n for n, item in enumerate("abcde", start=1)})} | changed
    for name, content in files.items():
        (folder / name).write_text(content)
    np.save(folder / "Set_emb_4.npy", np.arange(20, dtype=np.float32).reshape(5, 4))
    return folder


def test_the_layout_of_etegrec(tmp_path):
    dataset = imported(etegrec(tmp_path / "Set"), tmp_path / "d")
    assert list(sequences_of(dataset).values()) == list(HISTORIES.values())
    vectors = dataset.vectors().items
    assert {item.id: vectors[row].tolist() for row, item in enumerate(dataset.items)} == {
        item: [4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3] for n, item in enumerate("abcd")
    }


def row(history, target):
    return json.dumps({"inter_history": history, "target_id": target})


@pytest.mark.parametrize(
    ("make", "changed", "message"),
    [
        (letter, {"Set.index.json": {"a": ["<a_1>"], "b": ["a_2"]}}, "item 'b' has the code 'a_2', which is not like"),
        (letter, {"Set.index.json": {"a": ["<a_1>"], "b": ["<a_2>", "<b_1>"]}}, "all items must have the levels"),
        (letter, {"Set.index.json": {"a": ["<a_1>"]}}, "3 items have interactions and no codes, such as 'b'"),
        (letter, {"Set.inter.json": "[1"}, "Set.inter.json is not valid JSON"),
        (letter, {"Set.inter.json": [1]}, "must hold an object by the ids of users or items, got list"),
        (letter, {"Set.inter.json": {"7": "a b"}}, "the value of '7' is str"),
        (letter, {"Other.inter.json": HISTORIES}, "holds 2 files *.inter.json; one is expected"),
        (etegrec, {"Set.test.jsonl": row(["a"], "z")}, "line 1: the item 'z' is not in Set.emb_map.json"),
        (etegrec, {"Set.train.jsonl": row(["d"], "a")}, "line 1: its history and target are not the beginning"),
        (etegrec, {"Set.valid.jsonl": "{}"}, "line 1: must be an object with inter_history and target_id"),
        (etegrec, {"Set.emb_map.json": '{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7}'}, "has 5 rows, but"),
    ],
)
def test_what_is_wrong_is_named(make, changed, message, tmp_path, capsys):
    folder = make(tmp_path / "Set", **changed)
    assert run("data", "import", folder, "--split", "leave-one-out", "--k-core", 1, "--out", tmp_path / "d") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("u a b\nu c\n", "line 2: the user 'u' had a line before"),
        ("u a b\nv\n", "line 2: the user 'v' has no items"),
        ("\n\n", "s.txt holds no interactions"),
    ],
)
def test_bad_lines(content, message, tmp_path, capsys):
    (tmp_path / "s.txt").write_text(content)
    assert run("data", "import", tmp_path / "s.txt", "--sequences", "--k-core", 1, "--out", tmp_path / "d") == 1
    assert message in capsys.readouterr().err
    assert run("data", "import", tmp_path, "--train", tmp_path / "s.txt", "--sequences", "--out", tmp_path / "d") == 1

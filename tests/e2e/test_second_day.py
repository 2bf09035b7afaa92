"""What people do after the first day: other models, lists for a shop, strange titles, several seeds."""

import csv
import json
import os
import shutil
import stat

import pytest
from dmrec.cli.main import main

TITLES = [r"x\[/b]", r"C:\[tmp]\a", "[red]alarm", ":warning: sale :fire:", "[link=http://x]y[/link]", "<b>bold</b> [/]"]


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def rows_of(path):
    lines = path.read_text().splitlines()
    return list(csv.DictReader(lines)) if "csv" in path.name.lower() else [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A dataset whose titles look like markup, with two models of two seeds."""
    folder = tmp_path_factory.mktemp("shop")
    rows = [f"u{u},i{i},5" for u in range(40) for i in range(18) if (u * 7 + i * 3) % 4 or u % 3 == i % 3]
    (folder / "t.csv").write_text("user,item,rating\n" + "\n".join(rows))
    items = [
        {"id": f"i{i}", "title": TITLES[i % 6] + f" {i}", "tags": ["red", "green", "blue"][i % 3]} for i in range(18)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    assert run("data", "import", folder / "t.csv", "--items", folder / "items.jsonl", "--out", folder / "data") == 0
    assert run("profile", folder / "data") == 0
    assert run("embed", folder / "data", "--profiles", "template", "--width", 4) == 0
    small = ["--set", "training.epochs=3", "--set", "model.hidden=8", "--set", "model.latent=4"]
    given = ["--data", folder / "data", "--out", folder / "runs"]
    assert run("train", "dmrec-m", *given, *small, "--set", "language.hidden=8", "--seeds", 2) == 0
    assert run("train", "mult-vae", *given, *small) == 0, "the finished baselines are taken as they are"
    return folder


def test_titles_are_printed_as_they_are(shop, capsys):
    assert run("recommend", shop / "runs/data/dmrec-m/seed-0", "--user", "u2", "-k", 12) == 0
    printed = capsys.readouterr().out
    assert sum(title in printed for title in TITLES) >= 4
    assert run("recommend", shop / "runs/data/dmrec-m/seed-0", "--like", TITLES[2] + " 2", "--profile", "[/b] red") == 0
    assert "likes [red]alarm 2" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["top.csv", "TOP.CSV", "top.jsonl", "Top.JSONL"])
def test_lists_for_a_shop(shop, tmp_path, name):
    (tmp_path / "out.txt").write_text("\ufeffi3\r\ni4\r\n\r\n")
    path = tmp_path / name
    command = ["recommend", shop / "runs/data/mult-vae", "-k", 3, "--out", path]
    assert run(*command, "--exclude-items", tmp_path / "out.txt") == 0
    rows = rows_of(path)
    assert list(rows[0]) == ["user", "rank", "item", "title", "score"]
    assert {row["item"] for row in rows}.isdisjoint({"i3", "i4"})
    assert run(*command, "--among", tmp_path / "out.txt") == 0
    rows = rows_of(path)
    assert {row["item"] for row in rows} <= {"i3", "i4"}
    (tmp_path / "bad.txt").write_text("nothing\n")
    assert run(*command, "--among", tmp_path / "bad.txt") == 1


def test_visitors_in_bulk(shop, tmp_path, capsys):
    (tmp_path / "v.csv").write_text("id,profile,likes\na,green,\nb,,i1|i2\nc,blue,\"['i5', 'i6']\"\n")
    assert (
        run(
            "recommend",
            shop / "runs/data/dmrec-m",
            "--visitors",
            tmp_path / "v.csv",
            "-k",
            4,
            "--out",
            tmp_path / "o.csv",
        )
        == 0
    )
    assert "3 visitors:" in capsys.readouterr().err
    rows = rows_of(tmp_path / "o.csv")
    assert [(row["user"], row["rank"]) for row in rows] == [(who, str(rank)) for who in "abc" for rank in (1, 2, 3, 4)]
    assert not {row["item"] for row in rows if row["user"] == "c"} & {"i5", "i6"}
    for content, message in (
        ("id,profile\na,\n", "v.csv, record 1: has neither a profile nor likes (id, profile)"),
        ("id,likes\na,nothing\n", "visitor 'a': data has no item 'nothing'"),
        ("id,likes\n", "v.csv has no rows"),
    ):
        (tmp_path / "v.csv").write_text(content)
        assert (
            run("recommend", shop / "runs/data/dmrec-m", "--visitors", tmp_path / "v.csv", "--out", tmp_path / "p.csv")
            == 1
        )
        assert message in capsys.readouterr().err
        assert not (tmp_path / "p.csv").exists()
    assert run("recommend", shop / "runs/data/dmrec-m", "--visitors", tmp_path / "v.csv") == 1


def test_which_seed_is_shown_is_said(shop, capsys):
    assert run("evaluate", shop / "runs/data/dmrec-m", "--groups", "2,900") == 0
    printed = capsys.readouterr()
    assert "has runs of 2 seeds; this is seed-0" in printed.err
    assert next(line for line in printed.out.splitlines() if "900 or more" in line).count(" - ") > 1
    assert run("evaluate", shop / "runs/data/dmrec-m/seed-1") == 0
    assert "seeds" not in capsys.readouterr().err


def test_files_can_be_read_by_others(shop):
    umask = os.umask(0o022)
    os.umask(umask)
    for path in [*shop.rglob("*.safetensors"), *shop.rglob("*.npz"), *shop.rglob("*.json"), *shop.rglob("*.npy")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_a_finished_run_is_used_until_its_replacement_has_finished(shop, tmp_path, capsys):
    shutil.copytree(shop / "runs", tmp_path / "runs")
    run_folder = tmp_path / "runs/data/mult-vae"
    recommend = ["recommend", run_folder, "--user", "u2"]
    command = ["train", "mult-vae", "--no-baselines", "--data", shop / "data", "--out", tmp_path / "runs", "--force"]
    small = ["--set", "model.hidden=8", "--set", "model.latent=4"]
    assert run(*recommend) == 0
    before = capsys.readouterr().out
    assert run(*command, *small, "--set", "training.learning_rate=1e30") == 1
    capsys.readouterr()
    assert run(*recommend) == 0
    printed = capsys.readouterr()
    assert printed.out == before
    assert "is being trained again: this is the finished run before it" in printed.err
    assert run("evaluate", run_folder) == 0
    capsys.readouterr()
    assert run("runs", tmp_path / "runs") == 0
    assert capsys.readouterr().out.count("mult-vae") == 1
    assert run(*command, *small, "--set", "training.epochs=2") == 0
    assert not (run_folder / "seed-0/.previous").exists()
    capsys.readouterr()
    assert run(*recommend) == 0
    assert capsys.readouterr().err == ""


def test_a_run_that_is_not_finished_is_used_only_if_wanted(shop, tmp_path, capsys):
    folder = tmp_path / "seed-0"
    shutil.copytree(shop / "runs/data/mult-vae/seed-0", folder)
    (folder / "result.json").unlink()
    for command in (["recommend", folder, "--user", "u2"], ["evaluate", folder]):
        assert run(*command) == 1
        assert "is not finished (unfinished, after 3 epochs of 3): continue it" in capsys.readouterr().err
        assert run(*command, "--unfinished") == 0

"""What people do after the first day: other models, lists for a shop, strange titles, several seeds."""

import csv
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from dmrec import DmrecError, dataset, load, open_dataset, train
from dmrec.cli.main import COMMANDS, load_command, main
from dmrec.config import build_config
from dmrec.models.linear.ease import solve
from dmrec.recipes import recipe
from dmrec.training.progress import ProgressBar
from rich.console import Console

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
    (tmp_path / "v.csv").write_text("id,profile,likes\na,,\nb,,nothing|i3\nc,,no such thing\n")
    command = ["recommend", shop / "runs/data/dmrec-m", "--visitors", tmp_path / "v.csv", "--out", tmp_path / "p.csv"]
    assert run(*command, "-k", 3) == 0, "a job at night goes on"
    said = capsys.readouterr().err
    assert "2 liked items not in data, such as 'nothing': left out" in said
    assert "nothing that the model can read is known of 2 new users: the most popular items" in said
    rows = rows_of(tmp_path / "p.csv")
    of = {who: [row["item"] for row in rows if row["user"] == who] for who in "abc"}
    assert of["a"] == of["c"]
    train = open_dataset(shop / "data").matrix("train")
    assert of["a"][0] == open_dataset(shop / "data").items[train.sum(0).argmax()].id
    (tmp_path / "p.csv").unlink()
    for content, message in (
        ("id,name\na,x\n", "v.csv has neither a profile nor likes: its columns are id, name"),
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
    assert "before it" not in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_used_only_if_wanted(shop, tmp_path, capsys):
    folder = tmp_path / "seed-0"
    shutil.copytree(shop / "runs/data/mult-vae/seed-0", folder)
    (folder / "result.json").unlink()
    for command in (["recommend", folder, "--user", "u2"], ["evaluate", folder]):
        assert run(*command) == 1
        assert "is not finished (unfinished, after 3 epochs of 3): continue it" in capsys.readouterr().err
        assert run(*command, "--unfinished") == 0


def test_a_final_model_has_learned_from_all(shop, tmp_path, capsys):
    out = ["--out", tmp_path / "runs"]
    for name, more in (("dmrec-m", ["for", "epochs"]), ("ease", [])):
        assert run("train", "--final", shop / f"runs/data/{name}", *out) == 0
        said = capsys.readouterr().err
        assert f"{name}-final: trains on all interactions" in said
        assert all(word in said for word in more)
        made = json.loads((tmp_path / f"runs/data/{name}-final/seed-0/result.json").read_text())
        first = json.loads((shop / f"runs/data/{name}/seed-0/result.json").read_text())
        assert made["test"] == made["valid"] == {}
        assert made.get("epochs") == made.get("best_epoch") == first.get("best_epoch")
        assert made.get("regularisation") == first.get("regularisation")
        assert run("evaluate", tmp_path / f"runs/data/{name}-final") == 1
        assert "has learned from all interactions" in capsys.readouterr().err
        assert run("recommend", tmp_path / f"runs/data/{name}-final", "--user", "u2") == 0
        assert "reads" not in capsys.readouterr().err
    assert run("train", "--final", tmp_path / "runs/data/ease-final", *out) == 1
    assert "name the run that it was made from" in capsys.readouterr().err
    assert run("train", "mult-vae", "--final", shop / "runs/data/ease") == 1
    loaded = load(tmp_path / "runs/data/ease-final")
    assert loaded.data.interactions.nnz == sum(loaded.dataset.manifest["interactions"].values())
    again = train("ease", loaded.dataset, options={"model.regularisation": [made["regularisation"]]}, progress=False)
    assert not np.allclose(again.model.weights, loaded.model.weights)
    every = loaded.dataset.matrix("train") + loaded.dataset.matrix("valid") + loaded.dataset.matrix("test")
    gram = (every.T @ every).toarray().astype(np.float64)
    np.testing.assert_allclose(loaded.model.weights, solve(gram, made["regularisation"]), atol=1e-6)


def test_what_a_model_reads_of_a_user(shop, tmp_path, capsys):
    model = shop / "runs/data/mult-vae"
    assert run("recommend", model, "--user", "u2") == 0
    printed = capsys.readouterr()
    data = open_dataset(shop / "data")
    counts = data.manifest["interactions"]
    assert f"reads the {counts['train']} training interactions of {sum(counts.values())} that are known" in printed.err
    assert run("recommend", model, "--user", "u2", "--feed", "known") == 0
    fed = capsys.readouterr()
    assert "reads the" not in fed.err
    assert fed.out != printed.out
    loaded = load(model)
    known = loaded.recommend("u2", k=18, feed="known")
    row = data.user_rows["u2"]
    likes = [data.items[i].id for split in ("train", "valid", "test") for i in data.matrix(split)[row].indices]
    folded = loaded.recommend(likes=likes, k=18)
    assert known["item"].tolist() == folded["item"].tolist()
    np.testing.assert_allclose(known["score"], folded["score"], rtol=1e-5)


def test_new_purchases_without_training_again(shop, tmp_path, capsys):
    data, model = open_dataset(shop / "data"), load(shop / "runs/data/mult-vae")
    first = model.recommend("u2", k=2)["item"].tolist()
    lines = [f"u2,{first[0]},5", f"u2,{first[1]},1", "u3,i0,4", "u3,unknown,4", "stranger,i1,5", "other,unknown,5"]
    (tmp_path / "new.csv").write_text("user,item,rating\n" + "\n".join(lines))
    command = ["recommend", shop / "runs/data/mult-vae", "--history", tmp_path / "new.csv", "--out", tmp_path / "o.csv"]
    assert run(*command, "-k", 4) == 0
    said = capsys.readouterr().err
    assert "5 interactions of 2 users in training and 2 others, 1 below the dataset's lowest rating" in said
    assert "2 of items that are not in data, left out" in said
    assert "is known of 1 new user: the most popular items" in said
    assert f"{data.n_users + 2} users:" in said
    rows = rows_of(tmp_path / "o.csv")
    of = {}
    for row in rows:
        of.setdefault(row["user"], []).append(row["item"])
    assert first[0] not in of["u2"]
    assert of["stranger"] == model.recommend(likes=["i1"], k=4)["item"].tolist()
    assert of["u2"] == model.recommend("u2", k=4, history={"u2": [first[0]]})["item"].tolist()
    assert of["u7"] == model.recommend("u7", k=4)["item"].tolist(), "who bought nothing new is as before"
    assert run(*command[:4], "--user", "stranger", "-k", 4) == 0
    assert "stranger: not in training" in capsys.readouterr().out
    with pytest.raises(DmrecError, match="has no user 'nobody'"):
        model.recommend(history={"nobody": ["i1"]})


def test_no_model_reads_what_it_keeps_from_training(shop, tmp_path):
    model = train("lightgcn", shop / "data", epochs=1, progress=False)
    for options in ({"feed": "known"}, {"history": {"u2": ["i1"]}}):
        with pytest.raises(DmrecError, match="lightgcn keeps a vector of each user from training"):
            model.recommend("u2", **options)


@pytest.mark.parametrize("k", [1, 3, 8, 50])
def test_titles_are_told_once(tmp_path, k):
    rows = pa.table({"user": [f"u{n % 9}" for n in range(90)], "item": [f"i{n * 7 % 23}" for n in range(90)]})
    titles = pa.table(
        {"id": [f"i{n}" for n in range(23)], "title": [["Socks", "socks", "", f"T{n}"][n % 4] for n in range(23)]}
    )
    data = dataset(rows, items=titles, k_core=1, folder=tmp_path / "d")
    model = train("popularity", data, progress=False)
    every = model.recommend(k=23)
    found = model.recommend(k=k, distinct_titles=True)
    title = {item.id: item.title.casefold() for item in data.items}
    for user in set(every["user"]):
        seen, wanted = set(), []
        for item in every["item"][every["user"] == user]:
            if not title[item] or title[item] not in seen:
                wanted.append(item)
                seen.add(title[item])
        assert found["item"][found["user"] == user].tolist() == wanted[:k]


def test_a_dataset_without_test(shop, tmp_path, capsys):
    made = ["data", "import", shop / "t.csv", "--out", tmp_path / "d"]
    assert run(*made, "--no-test") == 0
    counts = open_dataset(tmp_path / "d").manifest["interactions"]
    assert counts["test"] == 0
    assert counts["valid"] == pytest.approx(sum(counts.values()) / 5, rel=0.05)
    capsys.readouterr()
    assert run("train", "ease", "--data", tmp_path / "d", "--out", tmp_path / "r") == 0
    assert "d: valid, 40 users" in capsys.readouterr().out
    assert run("runs", tmp_path / "r") == 0
    assert run("evaluate", tmp_path / "r/d/ease") == 1
    assert "has no test interactions" in capsys.readouterr().err
    assert run("evaluate", tmp_path / "r/d/ease", "--split", "valid") == 0
    assert run(*made, "--force", "--ratios", "8:1:1") == 0
    counts = open_dataset(tmp_path / "d").manifest["interactions"]
    assert counts["train"] == pytest.approx(0.8 * sum(counts.values()), rel=0.1)
    for options, message in (
        (["--ratios", "8:1"], "must be three numbers"),
        (["--ratios", "8:0:2"], "must be above 0"),
        (["--ratios", "8:nan:2"], "must be above 0"),
        (["--ratios", "8:1:1", "--no-test"], "exclude each other"),
        (["--ratios", "8:1:1", "--split", "leave-one-out"], "--ratios does nothing to --split leave-one-out"),
    ):
        capsys.readouterr()
        assert run(*made, "--force", *options) == 1
        assert message in capsys.readouterr().err


def test_nothing_is_left_of_a_dataset_that_is_replaced(shop, tmp_path):
    shutil.copytree(shop / "data", tmp_path / "d")
    before = {path.name for path in (tmp_path / "d").iterdir()}
    assert {"items.tfidf-svd-template.npy", "users.template.jsonl.gz"} <= before
    (tmp_path / "d/mine.txt").write_text("stays")
    assert run("data", "import", shop / "t.csv", "--out", tmp_path / "d", "--force") == 0
    kept = {path.name for path in (tmp_path / "d").iterdir() if not path.name.endswith(".lock")}
    splits = {"train.npz", "valid.npz", "test.npz"}
    assert kept == {"manifest.json", *splits, "items.jsonl.gz", "users.jsonl.gz", "mine.txt"}


def test_the_help_needs_no_torch():
    code = "import sys; from dmrec.cli.main import main; main(['--help'])"
    probe = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, 'numpy' in sys.modules)); "
    done = subprocess.run([sys.executable, "-c", probe + code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("False False\n")
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_summaries_are_the_beginning_of_the_help(name):
    """They are written down for the list of commands, so that it needs no command."""
    words = [word.strip(",.") for word in COMMANDS[name].summary.lower().split()]
    whole = load_command(name).help.lower()
    known = sum(word in whole for word in words)
    assert known >= 0.75 * len(words), (COMMANDS[name].summary, whole[:200])


def test_the_best_epoch_is_the_last(shop, tmp_path, capsys):
    small = ["--set", "training.epochs=3", "--set", "training.evaluate_every=3", "--set", "model.hidden=8"]
    assert run("train", "mult-vae", "--no-baselines", "--data", shop / "data", "--out", tmp_path, *small) == 0
    assert "mult-vae: the best epoch is the last: it may improve with more (--set training.epochs=6)" in (
        capsys.readouterr().out
    )


def test_progress_in_80_columns_keeps_name_epoch_and_times():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, _environ={"TERM": "xterm"})
    bar = ProgressBar(console)
    bar.on_start(None, build_config(recipe("dmrec-m")), 1)
    bar.on_evaluation(3, {}, 0.1234, 0.1299)
    bar.on_epoch(4, {"loss": 7.123, "nll": 7.0, "match": 0.1, "prior": 12.4, "seconds": 1.0})
    bar.bar.refresh()
    bar.on_end()
    line = next(line for line in re.split(r"[\r\n]", console.file.getvalue()) if "4/1000" in line)
    assert "dmrec-m" in line
    assert "valid 0.1234 (best 0.1299)" in line
    assert re.search(r"0:00:0\d < ", line)
    assert "…" not in line

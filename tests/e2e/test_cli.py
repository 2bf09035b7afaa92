"""The command line as a person uses it: import, embed, train, evaluate, recommend; errors in one line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from commands import StopAfter
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset

FAST = ["--set", "training.epochs=6", "--set", "model.hidden=24", "--set", "model.latent=8"]


def run(*arguments):
    """Exit code of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A dataset imported from CSV with texts, embedded, and runs trained on it, all by the command line."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    lines = ["user,item,rating,time"]
    likely = np.where(np.arange(60)[:, None] % 4 == np.arange(32) % 4, 0.8, 0.05)
    lines += [f"cust{u},sku{i},{3 + (u + i) % 3},{i}" for u, i in np.argwhere(rng.random((60, 32)) < likely)]
    (folder / "ratings.csv").write_text("\n".join(lines))
    kinds = ("spade soil garden", "guitar string chord", "tea kettle cup", "wheel chain bicycle")
    items = [{"id": f"sku{i}", "title": f"Thing {i}", "text": f"{kinds[i % 4]} no{i % 3}"} for i in range(32)]
    users = [{"id": f"cust{u}", "text": f"likes {kinds[u % 4]}"} for u in range(60)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "users.jsonl").write_text("\n".join(map(json.dumps, users)))
    data = folder / "data"
    described = ["--items", folder / "items.jsonl", "--users", folder / "users.jsonl"]
    assert run("data", "import", folder / "ratings.csv", "--out", data, "--name", "shop", *described) == 0
    assert run("embed", data, "--width", 8) == 0
    out = folder / "runs"
    models = ["mult-vae", "dmrec-m", "--data", data, "--out", out, "--plot", folder / "curves.png"]
    assert run("train", *models, *FAST) == 0
    return folder


def test_training_prints_all_models_and_the_baselines(shop, capsys):
    assert run("train", "dmrec-m", "--data", shop / "data", "--out", shop / "again", *FAST) == 0
    printed = capsys.readouterr().out
    for name in ("popularity", "ease", "dmrec-m", "recall@20", "ndcg@10", "text vectors: tfidf-svd"):
        assert name in printed
    assert (shop / "again/shop/dmrec-m/seed-0/result.json").exists()
    assert (shop / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_listed(shop, tmp_path, capsys):
    assert run("runs", shop / "runs", "--metric", "recall@5") == 0
    printed = capsys.readouterr().out
    for name in ("popularity", "ease", "mult-vae", "dmrec-m", "recall@5", "finished"):
        assert name in printed
    assert run("runs", tmp_path) == 1
    assert "holds no runs" in capsys.readouterr().err


def test_values_of_single_users_and_of_groups(shop, tmp_path, capsys):
    table = tmp_path / "users.jsonl"
    options = ["--metric", "recall@5", "--metric", "map@5", "--metric", "coverage@5", "--per-user", table]
    assert run("evaluate", shop / "runs/shop/dmrec-m", *options, "--groups", "4,6", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) == found["users"] == sum(group["users"] for group in found["groups"].values())
    assert np.mean([row["map@5"] for row in rows]) == pytest.approx(found["map@5"])
    assert list(found["groups"]) == ["0 to 3", "4 to 5", "6 or more"]
    few = [row["recall@5"] for row in rows if row["interactions"] < 4]
    assert found["groups"]["0 to 3"]["recall@5"] == pytest.approx(np.mean(few) if few else 0)
    assert "coverage@5" not in rows[0]
    assert run("evaluate", shop / "runs/shop/ease", "--per-user", tmp_path / "users.parquet", "--groups", "5") == 0
    assert "5 or more" in capsys.readouterr().out
    assert (tmp_path / "users.parquet").stat().st_size > 0


def test_finished_runs_stay_and_are_replaced_only_when_told_to(shop, capsys):
    again = ["train", "mult-vae", "--no-baselines", "--data", shop / "data", "--out", shop / "twice", *FAST]
    folder = shop / "twice/shop/mult-vae"
    assert run(*again) == 0
    written = (folder / "seed-0/result.json").read_bytes()
    capsys.readouterr()
    assert run(*again) == 0
    printed = capsys.readouterr()
    assert "mult-vae: finished before in" in printed.err
    assert "recall@20" in printed.out
    assert (folder / "seed-0/result.json").read_bytes() == written
    assert run(*again, "--set", "model.hidden=9") == 1
    assert "holds runs of mult-vae on shop with other options or other data" in capsys.readouterr().err
    assert run(*again, "--seeds", "2") == 0
    assert (folder / "seed-0/result.json").read_bytes() == written
    assert (folder / "seed-1/result.json").exists()
    assert run(*again, "--force", "--set", "training.seed=7") == 0
    assert not (folder / "seed-0").exists() or not (folder / "seed-0/result.json").exists()
    config = folder / "seed-7/config.yaml"
    assert run("train", "--config", config, "--no-baselines", "--out", shop / "repeat") == 0
    results = [
        json.loads((shop / f / "shop/mult-vae/seed-7/result.json").read_text())["test"] for f in ("twice", "repeat")
    ]
    assert results[0] == results[1]


def test_what_was_stopped_is_continued_by_the_same_command(shop, capsys, monkeypatch):
    from dmrec.training import trainer

    command = ["train", "mult-vae", "--no-baselines", "--data", shop / "data", *FAST]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(2))
        assert run(*command, "--out", shop / "stopped") == 130
    assert "stopped; run the same command again to continue" in capsys.readouterr().err
    assert run(*command, "--out", shop / "stopped") == 0
    weights = [shop / out / "shop/mult-vae/seed-0/model.safetensors" for out in ("stopped", "runs")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_devices(shop, capsys):
    out = ["--out", shop / "devices"]
    command = ["train", "mult-vae", "--no-baselines", "--data", shop / "data", *out, *FAST]
    assert run(*command, "--device", "auto") == 0
    folder = shop / "devices/shop/mult-vae/seed-0"
    assert json.loads((folder / "result.json").read_text())["environment"]["device"] == "cpu"
    assert "device: cpu" in (folder / "config.yaml").read_text()
    for bad, message in (("gpu", "training.device: String should match"), ("cuda", "device 'cuda' cannot be used")):
        assert run(*command, "--device", bad, "--force") == 1
        assert message in capsys.readouterr().err
    assert run("evaluate", folder, "--device", "auto", "--json") == 0
    assert run("evaluate", folder, "--device", "cuda:3") == 1
    assert "device 'cuda' cannot be used" in capsys.readouterr().err
    assert run("recommend", folder, "--device", "tpu", "--user", "cust7") == 1
    assert "unknown device 'tpu'" in capsys.readouterr().err


def test_options_of_language_spare_the_base_model(shop):
    recipes = ["train", "mult-vae", "dmrec-m", "--no-baselines", "--data", shop / "data", "--out", shop / "both", *FAST]
    assert run(*recipes, "--set", "matching.beta=0.25", "--set", "training.monitor=recall@7") == 0
    assert "beta: 0.25" in (shop / "both/shop/dmrec-m/seed-0/config.yaml").read_text()
    assert "matching: null" in (shop / "both/shop/mult-vae/seed-0/config.yaml").read_text()


def test_a_dataset_is_looked_over(shop, capsys):
    assert run("data", "inspect", shop / "data") == 0
    printed = capsys.readouterr().out
    for word in ("density", "of unseen items", "users by training interactions", "median characters", "tfidf-svd"):
        assert word in printed
    assert run("data", "inspect", shop / "data", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["texts"]["items"]["with text"] == 1
    assert found["overlap"] == {"train and valid": 0, "train and test": 0, "valid and test": 0}


def test_splits_and_vectors_by_the_command_line(shop, tmp_path, capsys):
    dataset = open_dataset(shop / "data")
    parts = []
    for split in ("train", "valid", "test"):
        rows, columns = dataset.matrix(split).nonzero()
        lines = [f"{dataset.users[u].id},{dataset.items[i].id}" for u, i in zip(rows, columns, strict=True)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["customer,sku", *lines]))
        parts += [f"--{split}", tmp_path / f"{split}.csv"]
    for side in ("items", "users"):
        np.save(tmp_path / f"{side}.npy", getattr(dataset.vectors(), side))
        (tmp_path / f"{side}.jsonl").write_text("\n".join(json.dumps({"id": e.id}) for e in getattr(dataset, side)))
    vectors = [f"--{side[:-1]}-vectors={tmp_path / side}.npy" for side in ("items", "users")]
    described = [f"--{side}={tmp_path / side}.jsonl" for side in ("items", "users")]
    columns = ["--user-column", "customer", "--item-column", "sku"]
    assert run("data", "import", *parts, *columns, *described, *vectors, "--out", tmp_path / "again") == 0
    again = open_dataset(tmp_path / "again")
    assert again.manifest["interactions"] == dataset.manifest["interactions"]
    row = {user.id: i for i, user in enumerate(again.users)}["cust7"]
    old = {user.id: i for i, user in enumerate(dataset.users)}["cust7"]
    np.testing.assert_array_equal(again.vectors("imported").users[row], dataset.vectors().users[old])
    assert again.matrix("train")[row].nnz == dataset.matrix("train")[old].nnz


def test_a_dataset_is_replaced_only_when_told_to(shop, capsys):
    again = ["data", "import", shop / "ratings.csv", "--out", shop / "other", "--seed", 3]
    assert run(*again) == 0
    assert run(*again) == 1
    assert (
        "other holds a dataset; name another folder (--out) or replace it and its vectors (--force"
        in capsys.readouterr().err
    )
    assert run(*again, "--force") == 0


def test_what_can_be_refused_is_refused_before_training(shop, capsys):
    bare = ["train", "mult-vae", "dmrec-m", "--data", shop / "bare", "--out", shop / "refused"]
    assert run("data", "import", shop / "ratings.csv", "--out", shop / "bare") == 0
    assert run(*bare) == 1
    assert "has no text vectors and no texts to make them from: import it with --items" in capsys.readouterr().err
    assert not (shop / "refused").exists()
    plot = ["train", "mult-vae", "--data", shop / "data", "--out", shop / "refused", "--plot", "x.gif"]
    assert run(*plot) == 1
    assert "x.gif: the suffix must be one of .png, .pdf, .svg" in capsys.readouterr().err
    assert not (shop / "refused").exists()


def test_evaluating_gives_the_figures_of_training(shop, capsys):
    assert run("evaluate", shop / "runs/shop/dmrec-m", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    result = json.loads((shop / "runs/shop/dmrec-m/seed-0/result.json").read_text())
    assert {name: printed[name] for name in result["test"]} == result["test"]
    assert run("evaluate", shop / "runs/shop/ease", "--split", "valid", "--metric", "recall@3") == 0
    assert "recall@3" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["popularity", "ease", "mult-vae", "dmrec-m"])
def test_recommending_for_everybody(shop, model, tmp_path):
    assert run("recommend", shop / "runs/shop" / model, "-k", 4, "--out", tmp_path / "r.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    dataset = open_dataset(shop / "data")
    assert len(rows) == 4 * dataset.n_users
    known = sum(dataset.matrix(split) for split in ("train", "valid", "test")).tocsr()
    row_of = {user.id: i for i, user in enumerate(dataset.users)}
    column_of = {item.id: i for i, item in enumerate(dataset.items)}
    assert not any(known[row_of[row["user"]], column_of[row["item"]]] for row in rows)
    assert rows[0]["title"] == dataset.items[column_of[rows[0]["item"]]].title
    scores = [row["score"] for row in rows[:4]]
    assert scores == sorted(scores, reverse=True)


def test_parquet_holds_the_same_rows(shop, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for name in ("r.jsonl", "r.parquet"):
        asked = ["--user", "cust7", "--user", "cust3", "--out", tmp_path / name]
        assert run("recommend", shop / "runs/shop/dmrec-m", *asked) == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["user"] for row in rows] == ["cust7"] * 10 + ["cust3"] * 10
    assert [{**row, "score": pytest.approx(row["score"], rel=1e-6)} for row in rows] == table


def test_recommending_on_the_screen_shows_titles(shop, capsys):
    assert run("recommend", shop / "runs/shop/dmrec-m", "--user", "cust7", "-k", 3) == 0
    printed = capsys.readouterr().out
    assert "cust7: likes wheel chain bicycle" in printed
    assert "interacted with Thing" in printed
    assert printed.count("Thing") >= 4


def test_help_has_examples(capsys):
    assert run("--help") == 0
    assert "train" in capsys.readouterr().out
    for command in ("train", "evaluate", "recommend", "doctor", "data import", "data inspect", "embed"):
        assert run(*command.split(), "--help") == 0
        assert f"dmrec {command.split()[0]}" in capsys.readouterr().out


def test_doctor(capsys):
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["operators"]["rank_topk"]) == {"cpu", "cuda"}
    assert run("doctor") == 0
    assert "gaussian_kl" in capsys.readouterr().out


FAILURES = [
    (["train", "dmrec-n", "--data", "{data}"], 1, "error: no recipe is called 'dmrec-n'; did you mean 'dmrec-m'?"),
    (["train", "--data", "{data}"], 1, "error: name a recipe (popularity, ease"),
    (["train", "mult-vae"], 1, "error: name the dataset: --data FOLDER"),
    (["train", "mult-vae", "--data", "nowhere"], 1, "nowhere is not a folder; a small dataset to start with"),
    (["train", "mult-vae", "--data", "{data}", "--set", "training.epoch=1"], 1, "unknown option 'training.epoch'"),
    (
        ["train", "mult-vae", "--data", "{data}", "--precision", "fp8"],
        1,
        "training.precision: Input should be 'float32'",
    ),
    (["train", "mult-vae", "--seeds", "0", "--data", "{data}"], 2, "Invalid value for '--seeds'"),
    (["evaluate", "nowhere"], 1, "nowhere is not a run"),
    (
        ["evaluate", "{run}", "--groups", "5,3"],
        1,
        "--groups takes rising whole numbers, like 5,10,20, or equal:4, got '5,3'",
    ),
    (["evaluate", "{run}", "--groups", "few"], 1, "--groups takes rising whole numbers"),
    (["evaluate", "{run}", "--per-user", "u.xls"], 1, "the ending says what to write; known: .parquet, .jsonl"),
    (["train", "mult-vae", "dmrec-m", "--data", "{data}", "--set", "name=x"], 1, "two recipes cannot have one name"),
    (
        ["train", "mult-vae", "ease", "--data", "{data}", "--set", "model.hidden=3"],
        1,
        "ease: unknown option 'model.hid",
    ),
    (["evaluate", "{run}", "--metric", "recall"], 1, "'recall' is not a metric; write it like recall@20"),
    (["recommend", "{run}"], 1, "name users (--user ID) or a file"),
    (["recommend", "{run}", "--profile", " ", "--out", "x.parquet"], 1, "--profile is empty: describe in words"),
    (["recommend", "{run}", "--user", "nobody"], 1, "shop has no user 'nobody' (ids look like 'cust0')"),
    (
        ["recommend", "{run}", "--out", "r.xls"],
        1,
        "r.xls: the ending says what to write; known: .parquet, .jsonl, .csv",
    ),
    (["data", "fetch", "ml-1m"], 1, "'ml-1m' cannot be fetched; did you mean 'ml-100k'?"),
    (
        ["embed", "{data}", "--encoder", "tfidf"],
        1,
        "there is no encoder 'tfidf', nor a folder of that name; did you mean 'tfidf-svd'?",
    ),
    (["data", "import"], 1, "give either one table or folder, or all of --train, --valid and --test"),
    (["data", "import", "{data}"], 1, "has an unknown layout: it holds none of *.inter, *.inter.json"),
    (
        ["data", "import", "--train", "{m}", "--valid", "{m}", "--test", "{m}", "--k-core", "9"],
        1,
        "--k-core does nothing to train.npz: leave it out",
    ),
    (
        ["data", "import", "--train", "{m}", "--valid", "{m}", "--test", "{m}", "--user-column", "u"],
        1,
        "--user-column does nothing to train.npz",
    ),
    (["data", "inspect", "nowhere"], 1, "nowhere is not a folder; a small dataset to start with"),
    (["data", "import", "none.csv"], 1, "none.csv does not exist"),
    (["trian"], 2, "No such command 'trian'"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), FAILURES, ids=lambda v: "-".join(v) if v is list else None)
def test_errors_are_one_clear_line(shop, arguments, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"data": str(shop / "data"), "m": str(shop / "data/train.npz"), "run": str(shop / "runs/shop/mult-vae")}
    assert run(*(argument.format(**places) for argument in arguments)) == status
    printed = capsys.readouterr().err
    assert message in " ".join(printed.replace("│", " ").split())
    assert "Traceback" not in printed
    if status == 1:
        assert len(printed.strip().splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "dmrec", "evaluate", str(tmp_path), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=120)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "DmrecError" in done.stderr


def test_a_damaged_dataset_is_an_error_not_a_crash(shop, tmp_path, capsys):
    import shutil

    shutil.copytree(shop / "data", tmp_path / "data")
    (tmp_path / "data/train.npz").write_bytes(b"gone")
    assert run("train", "mult-vae", "--data", tmp_path / "data") == 1
    assert "train.npz differs from its checksum" in capsys.readouterr().err

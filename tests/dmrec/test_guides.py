"""What CONTRIBUTING says can be added, added as it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import dmrec
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from dmrec.cli.main import main
from dmrec.data.create import create_dataset
from dmrec.data.sources import folders
from dmrec.data.splits import split_per_user
from dmrec.models.base import Histories

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def block(first_words):
    """The Python program in the guide that contains these words."""
    (found,) = [text for text in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if first_words in text]
    return found


@pytest.fixture
def ordered(tmp_path):
    """Users who go round a circle of ten items, each from an item of its own."""
    rows = [f"u{u},i{(u + n) % 10},{n}" for u in range(40) for n in range(4 + u % 5)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    command = ["data", "import", "log.csv", "--out", "data", "--split", "leave-one-out", "--k-core", "1"]
    done = subprocess.run([sys.executable, "-m", "dmrec", *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dmrec.open_dataset(tmp_path / "data")


def test_a_closed_form_model_that_reads_order(ordered, tmp_path):
    (tmp_path / "last_item.py").write_text(block("class LastItem("))
    (tmp_path / "last.yaml").write_text("{name: last, model: {kind: last-item}, evaluation: {metrics: [recall@1]}}")
    command = [sys.executable, "last_item.py", "train", "--config", "last.yaml", "--data", "data", "--no-baselines"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/data/last/seed-0"
    result = json.loads((folder / "result.json").read_text())
    assert result["valid"]["recall@1"] > 0.9, "the item after the last one in training"
    loaded = subprocess.run(
        [sys.executable, "last_item.py", "evaluate", str(folder), "--split", "valid", "--metric", "recall@1", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert json.loads(loaded.stdout)["recall@1"] == result["valid"]["recall@1"]
    new = [sys.executable, "last_item.py", "recommend", str(folder), "-k", "1", "--like", "i7", "--like", "i3"]
    assert "i4" in subprocess.run(new, cwd=tmp_path, capture_output=True, text=True).stdout


@pytest.mark.parametrize("aligned", [False, True])
def test_a_generative_recommender(aligned, ordered, tmp_path):
    """The page's program and configuration, as they are: it learns the circle, and its tokenizer learns with it."""
    page = (Path(__file__).parents[2] / "docs/adding-a-generative-recommender.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (session,) = re.findall(r"```text\n(.*?)```", page, re.S)
    (tmp_path / "parallel_codes.py").write_text(program)
    shown = re.search(r"cat parallel-soda.yaml\n(.*?)\$ dmrec", session, re.S)[1]
    bare = "{name: parallel-soda, model: {kind: parallel-codes}, training: {epochs: 16, evaluate_every: 2}}"
    (tmp_path / "parallel-soda.yaml").write_text(shown if aligned else bare)
    options = {"levels": 2, "size": 4}
    dmrec.tokenize(ordered, "rk-means", vectors="svd", **options)
    settings = ["training.learning_rate=0.02", "training.batch_size=32"]
    command = [sys.executable, "parallel_codes.py", "train", "--config", "parallel-soda.yaml", "--data", "data"]
    for setting in [*settings, *(["alignment.perplexity=2"] if aligned else [])]:
        command += ["--set", setting]
    done = subprocess.run([*command, "--no-baselines"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/data/parallel-soda/seed-0"
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any("churn" in event for event in events) == aligned
    result = json.loads((folder / "result.json").read_text())
    assert result["valid"]["recall@20"] == 1
    assert result["valid"]["ndcg@5"] > 0.7, "the next one on the circle"
    evaluated = [sys.executable, "parallel_codes.py", "evaluate", str(folder), "--split", "valid", "--json"]
    again = json.loads(subprocess.run(evaluated, cwd=tmp_path, capture_output=True, text=True).stdout)
    assert again["ndcg@5"] == result["valid"]["ndcg@5"]


def test_a_model_that_reads_order_needs_it(tmp_path):
    random = np.random.default_rng(0)
    splits, _ = split_per_user(sp.csr_matrix(random.random((40, 20)) < 0.4), 0)
    tiny_folder = create_dataset(tmp_path / "unordered", "unordered", splits, provenance={}).folder
    (tmp_path / "last_item.py").write_text(block("class LastItem("))
    (tmp_path / "last.yaml").write_text("{name: last, model: {kind: last-item}}")
    command = [sys.executable, "last_item.py", "train", "--config", "last.yaml", "--data", str(tiny_folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "has no sequences.npz; import it from a source with times" in done.stderr


def test_histories_are_the_rows_of_users_filled_up():
    histories = Histories(torch.tensor([0, 2, 2, 5]), torch.tensor([4, 1, 7, 8, 9]))
    assert histories.rows(torch.tensor([2, 0, 1])).tolist() == [[7, 8, 9], [4, 1, -1], [-1, -1, -1]]
    assert histories.rows(torch.tensor([1])).shape == (1, 0)
    assert histories.rows(torch.zeros(0, dtype=torch.int64)).shape == (0, 0)


def test_histories_hold_nothing_that_is_held_out(ordered):
    from dmrec.runs.load import histories_of

    histories = histories_of(ordered)
    held_out = (ordered.matrix("valid") + ordered.matrix("test")).toarray() > 0
    for user in range(ordered.n_users):
        items = histories.rows(torch.tensor([user]))[0]
        assert not held_out[user, items[items >= 0].numpy()].any()
        assert sorted(items[items >= 0].tolist()) == np.flatnonzero(ordered.matrix("train")[user].toarray()[0]).tolist()


def test_a_data_source(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "FOLDERS", dict(folders.FOLDERS))
    exec(compile(block("def read_likes("), "CONTRIBUTING.md", "exec"), {})
    (tmp_path / "likes").mkdir()
    lines = [f"u{u} " + " ".join(f"i{(u + n) % 9}" for n in range(7)) for u in range(12)]
    (tmp_path / "likes/likes.txt").write_text("\n".join(lines))
    with pytest.raises(SystemExit) as stopped:
        main(["data", "import", str(tmp_path / "likes"), "--out", str(tmp_path / "data")])
    assert not stopped.value.code
    dataset = dmrec.open_dataset(tmp_path / "data")
    assert (dataset.n_users, dataset.n_items) == (12, 9)
    assert sum(dataset.manifest["interactions"].values()) == 84


@pytest.mark.parametrize(
    "heading",
    [
        "## Adding an operator: the files",
        "## Adding a text encoder, file by file",
        "## Adding a model, file by file",
        "## Adding a data source",
        "## Adding a split",
        "## Adding a metric",
        "## Adding a command",
    ],
)
def test_a_guide_is_read_in_two_minutes_and_its_files_exist(heading):
    assert heading in GUIDE
    text = GUIDE.split(heading)[1].split("\n## ")[0]
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    assert len(prose.split()) < 480
    for name in re.findall(r"`((?:python|tests|docs|csrc|benchmarks|dmrec_ext)/[\w./]+)`", prose):
        assert (Path(__file__).parents[2] / name).exists(), name

"""Items that nobody has taken yet: recommended, persisted, and trained with the week after."""

import json

import dmrec
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.data.create import create_dataset
from dmrec.data.dataset import open_dataset
from dmrec.data.sources.new_items import read_new_items
from dmrec.errors import DmrecError
from dmrec.inference.recommend import Share, with_share
from dmrec.language.embed import embed_dataset
from dmrec.language.encoders.tfidf import TfidfSvd
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import load_run
from dmrec.runs.resolve import resolve
from dmrec.training.signals import Stopped
from dmrec.training.trainer import resume_run, train

FAST = {"epochs": 30, "learning_rate": 0.01, "batch_size": 40}
SIZES = {"model.hidden": 24, "model.latent": 8}
WEEK = {**SIZES, "model.item_text.forget": 0.4, "language.hidden": 24}
NEW = [
    {"id": "n0", "title": "A new spade", "text": "garden spade soil"},
    {"id": "n1", "title": "New strings", "text": "guitar string chord"},
    {"id": "n2", "title": "A new cup", "description": "kettle tea cup"},
    {"id": "n3", "title": "A new wheel", "text": "bicycle chain wheel"},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("new-items") / "data")


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return dmrec.train("dmrec-m", data, out=tmp_path_factory.mktemp("runs"), options=WEEK, **FAST)


def call(*arguments):
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def _kind(item):
    return int(item[1:]) % 4


def test_a_new_item_is_recommended_to_those_who_like_its_kind(model):
    table = model.recommend(k=6, seen="train", new_items=NEW)
    fans = {user: set() for user in table["user"]}
    for user, item in zip(table["user"], table["item"], strict=True):
        if item.startswith("n"):
            fans[user].add(item)
    right = sum(f"n{_kind(user)}" in items for user, items in fans.items())
    wrong = sum(len(items - {f"n{_kind(user)}"}) for user, items in fans.items())
    assert right > 0.8 * len(fans)
    assert wrong < 0.1 * len(fans)
    known = model.recommend(k=6, seen="train")["item"]
    assert not any(item.startswith("n") for item in known), "the model itself is as it was"


def test_scores_of_known_items_do_not_depend_on_new_ones(model):
    before = {(row["user"], row["item"]): row["score"] for row in model.recommend(["u1", "u2"], k=48).rows()}
    after = {(r["user"], r["item"]): r["score"] for r in model.recommend(["u1", "u2"], k=52, new_items=NEW).rows()}
    for pair, score in before.items():
        assert after[pair] == pytest.approx(score, rel=1e-5)
    assert {item for _, item in after.keys() - before.keys()} == {"n0", "n1", "n2", "n3"}


def test_only_new_and_a_share_of_new(model):
    only = model.recommend("u1", k=10, new_items=NEW, only_new=True)
    assert sorted(only["item"]) == ["n0", "n1", "n2", "n3"]
    assert only["item"][0] == "n1"
    plain = model.recommend("u1", k=10, new_items=NEW)["item"].tolist()
    shared = model.recommend("u1", k=10, new_items=NEW, new_share=0.3)
    assert sum(item.startswith("n") for item in shared["item"]) == 3
    assert shared["score"].tolist() == sorted(shared["score"].tolist(), reverse=True)
    assert [item for item in shared["item"] if not item.startswith("n")] == [
        item for item in plain if not item.startswith("n")
    ][:7]
    assert shared["item"][shared["rank"] == 1] == plain[:1]
    whole = model.recommend("u1", k=10, new_items=NEW, new_share=1.0)["item"]
    assert sum(item.startswith("n") for item in whole) == 4
    assert len(whole) == 10
    with pytest.raises(DmrecError, match="new_share must be a number from 0 to 1, got 2"):
        model.recommend("u1", new_items=NEW, new_share=2)
    with pytest.raises(DmrecError, match="only_new is for new items: give some"):
        model.recommend("u1", only_new=True)
    with pytest.raises(DmrecError, match="new_share is for new items: give some"):
        model.recommend("u1", new_share=0.2)


def test_places_for_new_items_by_hand():
    share = Share(2, torch.arange(6))
    scores = torch.tensor([[9.0, 8, 7, 6], [9, 8, 7, 6], [5, 4, -torch.inf, -torch.inf]])
    best = scores, torch.tensor([[0, 1, 2, 3], [6, 1, 7, 2], [0, 1, -1, -1]])
    new = torch.tensor([[3.0, 2], [9, 7], [1, -torch.inf]]), torch.tensor([[7, 6], [6, 7], [8, -1]])
    scores, items = with_share(best, new, share)
    assert items.tolist() == [[0, 1, 7, 6], [6, 1, 7, 2], [0, 1, 8, -1]]
    assert scores.tolist() == [[9, 8, 3, 2], [9, 8, 7, 6], [5, 4, 1, -torch.inf]]


def test_new_users_histories_and_similar_items_know_new_items(model):
    assert (
        model.recommend(profile="a guitar and every chord of it", k=3, new_items=NEW, only_new=True)["item"][0] == "n1"
    )
    grown = model.with_new_items(pd.DataFrame(NEW))
    assert grown.new_items == ["n0", "n1", "n2", "n3"]
    found = grown.recommend(likes=["n2"], k=8)["item"].tolist()
    assert "n2" not in found
    assert [_kind(item) for item in found].count(2) >= 6
    near = grown.similar_items("n3", k=5)["item"].tolist()
    assert [_kind(item) for item in near].count(3) >= 4
    assert "n0" in grown.similar_items("i4", k=40)["item"]
    after = grown.recommend("u1", k=52, history={"u1": ["n1", "n0"]})["item"].tolist()
    assert not {"n0", "n1"} & set(after)
    assert {"n2", "n3"} <= set(after)
    twice = grown.with_new_items([{"id": "m0", "text": "garden spade soil"}])
    assert twice.new_items == ["n0", "n1", "n2", "n3", "m0"]
    assert twice.item_vectors().vectors.shape[0] == 53


def test_an_item_may_bring_its_vector(model, data):
    vector = np.asarray(data.vectors("tfidf-svd").items[1], dtype=np.float32)
    by_vector = model.recommend("u1", k=1, new_items=[{"id": "v", "vector": vector.tolist()}], only_new=True)
    by_text = model.recommend("u1", k=1, new_items=[{"id": "v", "text": data.items[1].text}], only_new=True)
    assert by_vector["score"][0] == pytest.approx(by_text["score"][0], rel=1e-3)
    with pytest.raises(DmrecError, match="item 'v': the vectors 'tfidf-svd' of tiny are 8 wide, its own is 2"):
        model.recommend("u1", new_items=[{"id": "v", "vector": [0.0, 1.0]}])


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ([{"id": "a", "text": "tea"}, {"id": "a", "text": "cup"}], "item 'a' is there twice"),
        ([{"id": "i1", "text": "tea"}], "has no new item: 1 are in tiny already, 0 have neither a text nor a vector"),
        ([{"id": "a"}], "has no new item: 0 are in tiny already, 1 have neither"),
        ([{"id": "a", "vector": ["x"]}], "record 1: vector must be a list of finite numbers"),
        ([{"id": "a", "vector": [float("nan")]}], "record 1: vector must be a list of finite numbers"),
        (["a"], "must be a file, a data frame or dictionaries with id and text"),
        (7, "must be a pandas or polars data frame or an Arrow table, got int"),
    ],
)
def test_tables_of_new_items_that_are_refused(model, table, error):
    with pytest.raises(DmrecError, match=error):
        model.with_new_items(table)


def test_what_is_known_or_has_no_text_is_left_out(data):
    found = read_new_items([*NEW, {"id": "i3", "text": "x"}, {"id": "empty"}], data)
    assert [item.entity.id for item in found.items] == ["n0", "n1", "n2", "n3"]
    assert found.summary == (
        "4 new items; 1 known already, such as 'i3': left out; 1 without a text, such as 'empty': left out"
    )


def test_models_without_texts_of_items_say_what_to_do(data, tmp_path):
    model = dmrec.train("mult-vae", data, out=tmp_path, options=SIZES, **{**FAST, "epochs": 1})
    with pytest.raises(DmrecError, match=r"mult-vae has a row for each item .* --set model.item_text=\{\}"):
        model.with_new_items(NEW)


def test_the_command_line(model, data, tmp_path, capsys):
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*NEW, {"id": "i0", "text": "known"}]))
    run, out = str(model.folder), tmp_path / "top.csv"
    assert call("recommend", run, "--new-items", str(file), "--new-share", "0.2", "-k", "10", "--out", str(out)) == 0
    assert "4 new items; 1 known already, such as 'i0': left out" in capsys.readouterr().err
    table = pd.read_csv(out)
    new = table[table["item"].str.startswith("n")]
    assert (new.groupby("user").size() >= 2).all()
    assert new["user"].nunique() == 120
    assert set(new["title"]) == {row["title"] for row in NEW}
    assert call("recommend", run, "--new-items", str(file), "--only-new", "--user", "u2") == 0
    assert "A new cup" in capsys.readouterr().out
    assert call("recommend", run, "--new-items", str(file), "--only-new", "--profile", "guitar chord", "-k", "1") == 0
    assert "New strings" in capsys.readouterr().out
    assert call("recommend", run, "--only-new", "--user", "u2") == 1
    assert "--only-new and --new-share are for new items" in capsys.readouterr().err


def test_a_grown_dataset_is_persisted_and_its_runs_stay(model, data, tmp_path, capsys):
    file, out = tmp_path / "new.jsonl", tmp_path / "grown"
    file.write_text("".join(json.dumps(row) + "\n" for row in NEW))
    assert call("data", "add-items", str(data.folder), str(file), "--out", str(out)) == 0
    shown = capsys.readouterr()
    assert "4 new items" in shown.err
    assert "made again where needed: letter" in shown.err
    grown = open_dataset(out)
    assert [item.id for item in grown.items] == [*(item.id for item in data.items), "n0", "n1", "n2", "n3"]
    for split in ("train", "valid", "test"):
        assert (grown.matrix(split)[:, :48] != data.matrix(split)).nnz == 0
        assert grown.matrix(split)[:, 48:].nnz == 0
    np.testing.assert_array_equal(grown.sequence("train").items, data.sequence("train").items)
    np.testing.assert_array_equal(grown.vectors().items[:48], data.vectors().items)
    expected = model.with_new_items(NEW).dataset.vectors("tfidf-svd").items
    np.testing.assert_array_equal(grown.vectors().items, expected)
    assert grown.manifest["vectors"]["tfidf-svd"]["made"] == data.manifest["vectors"]["tfidf-svd"]["made"]
    assert dmrec.load(model.folder).recommend("u1", k=3)["item"].tolist()
    assert call("data", "add-items", str(data.folder), str(file), "--out", str(data.folder), "--force") == 1
    assert "is the dataset itself" in capsys.readouterr().err
    assert open_dataset(data.folder).n_items == 48
    again = dmrec.add_items(data, NEW, tmp_path / "again")
    np.testing.assert_array_equal(again.vectors().items, grown.vectors().items)
    with pytest.raises(DmrecError, match="holds a dataset"):
        dmrec.add_items(data, NEW, tmp_path / "again")
    start = {**FAST, "epochs": 2, "initial": str(model.folder)}
    run = dmrec.train("dmrec-m", grown, out=tmp_path / "runs", options=WEEK, **start)
    assert run.recommend("u1", k=52, seen="train")["item"].tolist().count("n1") == 1


def _next_week(data, folder, keep=None):
    """The same people and half of the items kept under other numbers, with some new of each."""
    order = np.random.default_rng(5).permutation(48)
    items = [data.items[i] for i in order]
    splits = {split: data.matrix(split)[:, order] for split in ("train", "valid", "test")}
    made = create_dataset(folder, "week", splits, items=items, users=data.users, provenance={})
    encoder = TfidfSvd(8) if keep is None else keep
    embed_dataset(made, encoder)
    return open_dataset(folder)


def test_a_training_starts_from_the_rows_of_the_same_items(model, data, tmp_path):
    week = _next_week(data, tmp_path / "week")
    assert call("embed", str(week.folder), "--encoder-of", str(data.folder), "--force") == 0
    week = open_dataset(week.folder)
    by_id = {item.id: row for item, row in zip(week.items, week.vectors().items, strict=True)}
    for item, row in zip(data.items, data.vectors().items, strict=True):
        np.testing.assert_array_equal(by_id[item.id], row)
    start = {**FAST, "epochs": 1, "learning_rate": 1e-9}
    again = dmrec.train("dmrec-m", week, out=tmp_path / "runs", options=WEEK, **start, initial=str(model.folder))
    one, two = (
        {(row["user"], row["item"]): row["score"] for row in each.recommend(k=5, seen="train").rows()}
        for each in (model, again)
    )
    assert one.keys() == two.keys()
    assert all(two[pair] == pytest.approx(score, rel=1e-3) for pair, score in one.items())
    cold = dmrec.train("dmrec-m", week, out=tmp_path / "cold", options=WEEK, **start)
    assert again.result["valid"]["recall@20"] > cold.result["valid"]["recall@20"] + 0.1


def test_a_start_from_another_run_that_does_not_fit_is_refused(model, data, tmp_path, capsys):
    week = _next_week(data, tmp_path / "week", TfidfSvd(8, min_df=1, seed=3))
    items = week.vectors().items[:, ::-1]
    week.add_vectors("tfidf-svd", np.ascontiguousarray(items), week.vectors().users, {})
    week = open_dataset(week.folder)
    options = ["--set", "model={hidden: 24, latent: 8, item_text: {}}", "--set", "language.hidden=24", "--no-baselines"]
    start = ["train", "dmrec-m", "--out", str(tmp_path / "runs"), *options]
    assert call(*start, "--data", str(week.folder), "--from", str(model.folder)) == 1
    assert "are of another space" in " ".join(capsys.readouterr().err.split())
    other = tiny.make(tmp_path / "other")
    swapped = {"train": other.matrix("test"), "valid": other.matrix("train"), "test": other.matrix("valid")}
    described = {"items": other.items, "users": other.users, "provenance": {}}
    vectors = other.vectors()
    items, users = np.array(vectors.items), np.array(vectors.users)
    other = create_dataset(tmp_path / "other", "other", swapped, **described)
    other.add_vectors("tfidf-svd", items, users, {})
    assert call(*start, "--data", str(other.folder), "--from", str(model.folder)) == 1
    assert "valid interactions of" in " ".join(capsys.readouterr().err.split())
    assert call(*start, "--data", str(data.folder), "--from", str(tmp_path / "nothing")) == 1
    assert "is not the folder of a run" in " ".join(capsys.readouterr().err.split())
    plain = ["train", "ease", "--no-baselines", "--out", tmp_path / "runs", "--data", data.folder]
    assert call(*plain, "--from", model.folder) == 1
    assert "the model 'ease' cannot start from weights of 'mult-vae'" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "runs").rglob("config.yaml")), "nothing was begun"


def test_a_started_run_is_resumed_bit_for_bit(model, data, tmp_path, monkeypatch):
    training = {**FAST, "epochs": 6, "initial": model.folder, "checkpoint_minutes": 0}
    options = {**WEEK, **{f"training.{name}": value for name, value in training.items()}}
    settings = [f"{name}={value}" for name, value in options.items()]
    config = resolve(build_config(apply_overrides(recipe("dmrec-m"), settings)), data)
    train(config, data, tmp_path / "whole")

    class StopAt:
        looks = 0

        @property
        def requested(self):
            self.looks += 1
            return self.looks > 5

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    with monkeypatch.context() as patch:
        patch.setattr("dmrec.training.trainer.GracefulInterrupt", StopAt)
        with pytest.raises(Stopped):
            train(config, data, tmp_path / "parts")
    resume_run(tmp_path / "parts")
    whole, parts = (load_run(tmp_path / name).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())

"""The search: on validation alone, can be continued after a stop, keeps all trials."""

import pytest
import torch
from dmrec.config import build_config, read_config
from dmrec.data.dataset import Dataset
from dmrec.errors import DmrecError
from dmrec.experiment import tuning
from dmrec.experiment.tuning import BEST, read_space, read_trials, search
from dmrec.files import locked
from dmrec.options import deep_merge
from dmrec.recipes import RECIPES, recipe

pytest.importorskip("optuna", reason="optuna is not installed")

SMALL = {"model": {"hidden": 24, "latent": 8}, "training": {"epochs": 6, "batch_size": 40, "learning_rate": 0.01}}
SPACE = {"model.dropout": {"low": 0.0, "high": 0.9}, "model.hidden": {"choices": [4, 24]}}


@pytest.fixture
def values():
    return deep_merge(recipe("mult-vae"), SMALL)


def test_all_trials_are_kept_and_the_best_is_a_configuration(values, dataset, tmp_path):
    best = search(values, SPACE, dataset, tmp_path, 5, 0, print)
    found = list(read_trials(tmp_path, "mult-vae"))
    assert len(found) == 5
    top = max((row for row in found if row["state"] == "complete"), key=lambda row: row["score"])
    assert best == {key: top[key] for key in SPACE}
    config = build_config(read_config(tmp_path / BEST))
    assert (config.model.dropout, config.model.hidden) == (best["model.dropout"], best["model.hidden"])
    assert [p.parent.name for p in tmp_path.glob("trial-*/model.safetensors")] == [f"trial-{top['trial']}"]
    assert len(list(tmp_path.glob("trial-*/log.jsonl"))) == 5


def test_the_test_interactions_do_not_matter(values, dataset, tmp_path, monkeypatch):
    scores, split = [], Dataset.split

    def of_others(self, name):
        found = split(self, name)
        return found.rows(torch.arange(found.n_rows).flip(0)) if name == "test" else found

    for name in ("seen", "of others"):
        search(values, SPACE, dataset, tmp_path / name, 2, 0, print)
        scores.append([row["score"] for row in read_trials(tmp_path / name, "mult-vae")])
        monkeypatch.setattr(Dataset, "split", of_others)
    assert scores[0] == scores[1]


def test_a_continued_search_repeats_the_trial_that_was_cut_short(values, dataset, tmp_path, monkeypatch):
    search(values, SPACE, dataset, tmp_path, 2, 0, print)
    train = tuning._train
    monkeypatch.setattr(tuning, "_train", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        search(values, SPACE, dataset, tmp_path, 4, 0, print)
    monkeypatch.setattr(tuning, "_train", train)
    search(values, SPACE, dataset, tmp_path, 4, 0, print)
    found = list(read_trials(tmp_path, "mult-vae"))
    assert [row["state"] for row in found] == ["complete", "complete", "fail", "complete", "complete"]
    assert {key: found[2][key] for key in SPACE} == {key: found[3][key] for key in SPACE}
    assert len({row["model.dropout"] for row in found}) == 4, "what was drawn at first was drawn again"
    with pytest.raises(DmrecError, match="holds a search of other options, or on other data"):
        search(values, {"model.dropout": SPACE["model.dropout"]}, dataset, tmp_path, 4, 0, print)


def test_a_trial_that_falls_behind_is_pruned(values, dataset, tmp_path, monkeypatch):
    optuna = tuning._import_optuna()
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: optuna.pruners.ThresholdPruner(lower=2.0))
    with pytest.raises(DmrecError, match="has completed: all were pruned or failed"):
        search(values, SPACE, dataset, tmp_path, 2, 0, print)
    assert [row["state"] for row in read_trials(tmp_path, "mult-vae")] == ["pruned", "pruned"]
    assert (
        len((tmp_path / "trial-0/log.jsonl").read_text().splitlines()) == 3 + 2
    )  # start, three epochs, one evaluation


def test_the_default_space_is_what_the_model_has(values, tmp_path):
    assert "matching.beta" not in read_space(None, values)
    assert set(read_space(None, recipe("dmrec-m"))) == {
        *("model.dropout", "model.hidden", "model.latent"),
        *("matching.beta", "language.hidden", "training.learning_rate"),
    }
    assert "model.hidden" not in read_space(None, recipe("cvga"))
    path = tmp_path / "space.yaml"
    path.write_text("model.dropout: {low: 0.1, high: 0.2}\ntraining.learning_rate: {low: 1e-4, high: 0.1, log: true}\n")
    assert set(read_space(path, values)) == {"model.dropout", "training.learning_rate"}
    assert read_space(path, values)["training.learning_rate"]["low"] == 1e-4  # a word in YAML 1.1
    for text, message in (
        ("model.dropout: 0.5", "model.dropout: must be {low, high}, with log: true, or {choices"),
        ("model.droput: {low: 0, high: 1}", "unknown option 'model.droput'; did you mean 'dropout'"),
        ("model.dropout: {low: 0, high: 3}", "model.dropout: Input should be less than 1"),
        ("model.dropout: {low: 0.5, high: 0}", "model.dropout: low must be a number below high"),
        ("model.dropout: {low: 0, high: x}", "model.dropout: low must be a number below high"),
        ("model.dropout: {low: 0, high: 0.5, log: true}", "model.dropout: on a logarithmic scale low must be above 0"),
        ("model.dropout: {choices: []}", "model.dropout: must be {low, high}, with log: true, or {choices"),
    ):
        path.write_text(text)
        with pytest.raises(DmrecError, match=message):
            read_space(path, values)


def test_a_range_of_a_share_has_shares_in_it(dataset, tmp_path):
    """Also where its ends are written as whole numbers; widths stay whole."""
    path = tmp_path / "space.yaml"
    path.write_text("matching.beta: {low: 0, high: 1}\nmodel.hidden: {low: 4.0, high: 24}\n")
    values = deep_merge(recipe("dmrec-m"), {**SMALL, "language": {"hidden": 8}})
    space = read_space(path, values)
    search(values, space, dataset, tmp_path / "out", 3, 0, print)
    found = list(read_trials(tmp_path / "out", "dmrec-m"))
    assert all(0 < row["matching.beta"] < 1 for row in found)
    assert all(type(row["model.hidden"]) is int for row in found)


def test_a_folder_holds_one_search_and_one_process(values, dataset, tmp_path):
    search(values, SPACE, dataset, tmp_path, 1, 0, print)
    with pytest.raises(DmrecError, match="holds a search of mult-vae: name another folder"):
        search(values | {"name": "other"}, SPACE, dataset, tmp_path, 2, 0, print)
    with locked(tmp_path / ".lock"), pytest.raises(DmrecError, match="another process searches here"):
        search(values, SPACE, dataset, tmp_path, 2, 0, print)
    assert [row["state"] for row in read_trials(tmp_path, "mult-vae")] == ["complete"]
    assert [path.name for path in tmp_path.glob("trial-*")] == ["trial-0"]


def test_an_error_fails_its_trial_and_comes_out(values, dataset, tmp_path, monkeypatch):
    train = tuning._train
    monkeypatch.setattr(tuning, "_train", lambda *arguments: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        search(values, SPACE, dataset, tmp_path, 1, 0, print)
    monkeypatch.setattr(tuning, "_train", train)
    search(values, SPACE, dataset, tmp_path, 1, 0, print)
    found = list(read_trials(tmp_path, "mult-vae"))
    assert [row["state"] for row in found] == ["fail", "complete"]
    assert found[0]["model.dropout"] != found[1]["model.dropout"]


def test_diverging_trials_end(values, dataset, tmp_path):
    space = {"training.learning_rate": {"choices": [1e30, 0.01]}}
    search(values, space, dataset, tmp_path, 6, 1, print)
    states = [row["state"] for row in read_trials(tmp_path, "mult-vae")]
    assert len(states) == 6
    assert set(states) == {"complete", "fail"}


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "ensemble"])
def test_a_search_begins_with_the_options_of_the_recipe(name):
    """Every trained recipe has something to search, and its own options are in the space."""
    values = recipe(name)
    config = build_config(values)
    space = tuning.default_space(config)
    if config.model.is_random:
        assert {"training.learning_rate"} < space.keys() or config.model.reads_sequences
    assert tuning._within(values, space).keys() == space.keys()

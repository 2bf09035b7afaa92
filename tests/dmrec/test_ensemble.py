"""Ensembles: standardised scores, weights chosen on validation, use, and what is refused."""

import json
import math
import shutil

import dmrec
import pytest
import tiny
import torch
from dmrec.cli.main import main
from dmrec.errors import DmrecError
from dmrec.models.base import Member, Model, UserBatch, evaluating
from dmrec.models.ensemble import SHARES, Ensemble, standardized
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.run import Run

from dmrec_ext import Csr

FAST = {"epochs": 20, "learning_rate": 0.01, "batch_size": 64, "evaluate_every": 20}
SIZES = {"model.hidden": 32, "model.latent": 16}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of finished runs on a small dataset: ease, dmrec-m, mult-vae, lightgcn, popularity."""
    root = tmp_path_factory.mktemp("ensemble")
    data = tiny.make(root / "data")
    dmrec.train("dmrec-m", data, out=root / "runs", options={**SIZES, "language.hidden": 24}, **FAST)
    dmrec.train("mult-vae", data, out=root / "runs", options=SIZES, **FAST)
    dmrec.train("lightgcn", data, out=root / "runs", options={"model.embedding_dim": 16}, **FAST)
    for name in ("ease", "popularity"):
        dmrec.train(name, data, out=root / "runs")
    return root


@pytest.fixture(scope="module")
def blend(runs):
    options = {"model.runs": folders(runs, "ease", "dmrec-m", "mult-vae")}
    return dmrec.train("ensemble", runs / "data", out=runs / "made", options=options)


def folders(root, *names):
    return [str(root / "runs/tiny" / name) for name in names]


class Scores(Model):
    """Given scores of all users."""

    def __init__(self, scores):
        super().__init__()
        self.register_buffer("scores", scores)

    def rank(self, batch, k, exclude=None):
        raise NotImplementedError

    def item_scores(self, batch):
        return self.scores[batch.ids]


def of_users(n_users, n_items):
    nothing = Csr(torch.zeros(n_users + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), None, n_items)
    return UserBatch(torch.arange(n_users), nothing)


def test_standardised_scores():
    scores = torch.randn(5, 40) * 3 + 100
    scores[2] = 7.7  # all items alike
    found = standardized(scores)
    expected = (scores.double() - scores.double().mean(1, keepdim=True)) / scores.double().std(
        1, correction=0, keepdim=True
    )
    expected[2] = 0
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert bool((found[2] == 0).all())
    torch.testing.assert_close(standardized(scores * 1e-4), found, rtol=1e-3, atol=1e-3)


def test_scores_are_the_weighted_sum():
    one, other = torch.randn(6, 30), torch.randn(6, 30) * 50
    ensemble = Ensemble((Member("a", Scores(one)), Member("b", Scores(other))), (3.0, 1.0))
    assert ensemble.fit(None, None) == {"weights": [0.75, 0.25]}
    batch = of_users(6, 30)
    total = 0.75 * standardized(one) + 0.25 * standardized(other)
    torch.testing.assert_close(ensemble.item_scores(batch), total)
    with evaluating(ensemble):
        values, items = ensemble.rank(batch, 4)
    assert torch.equal(items, total.topk(4).indices)
    torch.testing.assert_close(values, total.topk(4).values)


@pytest.mark.parametrize("wanted", [(1.0, 0.0, 0.0), (0.3, 0.7, 0.0), (0.2, 0.0, 0.8)])
def test_the_weights_with_the_best_score_are_found(wanted):
    """For a score that is the larger the nearer the weights are, whatever the order of the models."""
    names = ("a", "a", "c")
    ensemble = Ensemble(tuple(Member(name, Scores(torch.randn(2, 3))) for name in names))
    asked = []

    def score(model, **weights):
        asked.append(weights)
        return -float((model.weights - torch.tensor(wanted)).square().sum())

    assert ensemble.fit(None, score)["weights"] == pytest.approx(wanted, abs=1e-6)
    assert list(asked[0]) == ["a 1", "a 2", "c"]
    assert all(sum(weights.values()) == pytest.approx(1, abs=1e-5) for weights in asked)


def test_the_ensemble_is_not_worse_on_validation_than_its_runs(blend, runs):
    result = json.loads((blend.folder / "result.json").read_text())
    of_runs = [Run.open(folder).result["valid"]["recall@20"] for folder in (runs / "runs/tiny").iterdir()]
    assert result["valid"]["recall@20"] >= max(of_runs)
    assert sum(result["weights"]) == pytest.approx(1, abs=1e-5)
    assert len(Run.open(blend.folder).events("evaluation")) == 3 + 2 * len(SHARES)


def test_it_is_used_like_any_other_model(blend, runs, capsys):
    again = dmrec.load(blend.folder)
    first, second = blend.recommend(["u1", "u7"], k=5), again.recommend(["u1", "u7"], k=5)
    assert first["item"].tolist() == second["item"].tolist()
    assert again.recommend(likes=["i3"], k=5)["item"].tolist()
    main_exits(["evaluate", str(blend.folder)])
    assert "recall@20" in capsys.readouterr().out


def test_words_alone_rank_as_the_run_that_reads_them(runs):
    """EASE says nothing of a user without interactions, so the order is that of the autoencoder."""
    options = {"model.runs": folders(runs, "ease", "dmrec-m"), "model.weights": [0.5, 0.5], "name": "halves"}
    halves = dmrec.train("ensemble", runs / "data", out=runs / "made", options=options)
    alone = dmrec.load(runs / "runs/tiny/dmrec-m")
    text = halves.dataset.users[3].text
    assert halves.recommend(profile=text, k=8)["item"].tolist() == alone.recommend(profile=text, k=8)["item"].tolist()


def main_exits(arguments, code=0):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == code


def test_what_is_refused(runs, tmp_path):
    data = runs / "data"

    def refused(message, **options):
        with pytest.raises(DmrecError, match=message):
            dmrec.train("ensemble", data, out=tmp_path, options={f"model.{k}": v for k, v in options.items()})

    refused("model.runs: an ensemble needs the folders of two runs or more")
    refused("model.runs: 'nowhere' is not the folder of a run", runs=["nowhere", "elsewhere"])
    both = folders(runs, "ease", "dmrec-m")
    refused("model.weights: 2 runs need as many weights, got 1", runs=both, weights=[1])
    refused("at least one weight must be above 0", runs=both, weights=[0, 0])
    refused(r"weights.1: Input should be greater than or equal to 0", runs=both, weights=[1, -1])


def test_runs_on_another_dataset_are_refused(runs, tmp_path):
    other = tiny.make(tmp_path / "other", n_users=60)
    dmrec.train("ease", other, out=tmp_path / "runs")
    both = [*folders(runs, "dmrec-m"), str(tmp_path / "runs/tiny/ease")]
    with pytest.raises(DmrecError, match="model.runs: .*ease was trained on another dataset, tiny"):
        dmrec.train("ensemble", runs / "data", options={"model.runs": both})


def test_models_that_read_the_order_are_refused(tmp_path):
    data = tiny.round_walks(tmp_path / "data", 40)
    for name in ("markov", "popularity"):
        dmrec.train(name, data, out=tmp_path / "runs")
    both = [str(tmp_path / "runs" / data.name / name) for name in ("popularity", "markov")]
    with pytest.raises(DmrecError, match="markov reads the order of interactions, which an ensemble does not"):
        dmrec.train("ensemble", data, options={"model.runs": both})


def test_final_runs_make_a_final_ensemble(runs, tmp_path):
    finals = []
    for name in ("ease", "dmrec-m"):
        main_exits(["train", "--final", str(runs / "runs/tiny" / name), "--out", str(tmp_path)])
        finals.append(str(next(tmp_path.glob(f"**/{name}-final"))))
    options = {"model.runs": finals, "model.weights": [0.4, 0.6]}
    with pytest.raises(DmrecError, match="has learned from all interactions, held-out ones included"):
        dmrec.train("ensemble", runs / "data", out=tmp_path, options=options)
    everything = {**options, "training.interactions": "all"}
    made = dmrec.train("ensemble", runs / "data", out=tmp_path, options=everything)
    assert made.model.weights.tolist() == pytest.approx([0.4, 0.6])
    assert len(made.recommend("u1", k=3)) == 3
    trained = folders(runs, "ease", "dmrec-m")
    with pytest.raises(DmrecError, match="an ensemble for use is made from final runs: dmrec train --final"):
        dmrec.train("ensemble", runs / "data", out=tmp_path, options={**everything, "model.runs": trained})
    with pytest.raises(DmrecError, match="nothing held out to choose them by, needs weights"):
        dmrec.train("ensemble", runs / "data", out=tmp_path, options={**everything, "model.weights": []})


def test_a_run_that_was_trained_again_is_noticed(runs, tmp_path):
    shutil.copytree(runs / "runs", tmp_path / "runs")
    options = {"model.runs": [str(tmp_path / "runs/tiny" / name) for name in ("ease", "mult-vae")]}
    made = dmrec.train("ensemble", runs / "data", out=tmp_path / "made", options=options)
    again = {"options": SIZES, **FAST, "epochs": 3, "evaluate_every": 3}
    dmrec.train("mult-vae", runs / "data", out=tmp_path / "runs", replace=True, **again)
    with pytest.raises(DmrecError, match="was made from .*mult-vae.seed-0, which has been trained again since"):
        dmrec.load(made.folder)


def test_users_of_training_alone(runs):
    """LightGCN takes part, and says itself that it does not know new users."""
    options = {"model.runs": folders(runs, "lightgcn", "popularity"), "model.weights": [1, 1], "name": "graph"}
    made = dmrec.train("ensemble", runs / "data", out=runs / "made", options=options)
    assert len(made.recommend("u1", k=3)) == 3
    with pytest.raises(DmrecError, match="lightgcn knows only the users it was trained on"):
        made.recommend(likes=["i1"], k=3)


@pytest.mark.parametrize("name", ["ease", "popularity", "mult-vae", "dmrec-m", "lightgcn"])
def test_scores_of_all_items_are_those_of_the_ranking(runs, name):
    run = dmrec.load(runs / "runs/tiny" / name)
    batch = run.data.users(torch.arange(run.data.n_users))
    with evaluating(run.model):
        scores, (values, items) = run.model.item_scores(batch), run.model.rank(batch, 5)
    assert scores.shape == (run.data.n_users, run.data.n_items)
    torch.testing.assert_close(scores.gather(1, items), values, rtol=1e-4, atol=1e-5)
    assert math.isclose(float(scores.max()), float(values[:, 0].max()), rel_tol=1e-4)


def test_models_without_scores_of_all_items_say_so():
    class Other(Model):
        def rank(self, batch, k, exclude=None):
            raise NotImplementedError

    with pytest.raises(DmrecError, match="Other does not score all items; autoencoders, ease, lightgcn"):
        Other().item_scores(of_users(1, 2))


def test_the_options_of_the_recipe_are_read_from_the_command_line():
    values = apply_overrides(recipe("ensemble"), ["model.runs=[a, b]", "model.weights=[1, 2]"])
    assert values["model"] == {"kind": "ensemble", "runs": ["a", "b"], "weights": [1, 2]}

"""What runs keep of their users: metrics afterwards, and which dimensions of a posterior tell users apart."""

import numpy as np
import pytest
import tiny
import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.eval.activity import activity_of
from dmrec.eval.ranking import evaluate
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import load_model, training_data
from dmrec.runs.resolve import resolve
from dmrec.runs.run import USERS, Run
from dmrec.runs.users import DEPTH, TestedUsers
from dmrec.training.trainer import train

LATER = ["recall@7", "precision@30", "hit@3", "ndcg@100", "mrr@100", "map@50"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("data") / "tiny")


def run_of(data, folder, name, *options):
    options = ["evaluation.per_user=true", *options]
    config = resolve(build_config(apply_overrides(recipe(name), options)), data)
    train(config, data, folder)
    return folder


@pytest.mark.parametrize("name", ["popularity", "dmrec-m"])
def test_metrics_afterwards_are_those_measured_at_once(data, tmp_path, name):
    short = [] if name == "popularity" else ["training.epochs=3"]
    folder = run_of(data, tmp_path / "run", name, *short)
    kept = TestedUsers(folder / USERS)
    opened = load_model(Run.open(folder), data)
    measured = evaluate(opened.model, opened.data, data.split("test"), [*LATER, "recall@20"])
    for metric in (*LATER, "recall@20"):
        np.testing.assert_array_equal(kept.values(metric), measured.values[metric])
    np.testing.assert_array_equal(kept.user, measured.users)
    np.testing.assert_array_equal(kept.interactions, data.split("train").crow.diff()[measured.users])
    assert kept.hits.shape == (measured.n_users, DEPTH)
    for unknown in ("recall@101", "coverage@10"):
        assert not kept.measures(unknown)
        with pytest.raises(DmrecError, match=f"does not tell '{unknown}'"):
            kept.values(unknown)


def test_a_run_of_an_earlier_version_says_what_it_lacks(tmp_path):
    np.savez(tmp_path / USERS, user=np.arange(3), **{"recall@20": np.ones(3)})
    kept = TestedUsers(tmp_path / USERS)
    assert kept.measures("recall@20")
    assert not kept.measures("recall@10")
    with pytest.raises(DmrecError, match="has no 'interactions': the run was made by an earlier version"):
        kept.interactions  # noqa: B018


@pytest.mark.parametrize(
    ("name", "posteriors"),
    [("mult-vae", ["collaborative"]), ("cvga-m", ["collaborative", "language", "fused"]), ("ease", [])],
)
def test_activity_is_the_variance_of_means_over_users(data, name, posteriors):
    torch.manual_seed(0)
    config = resolve(build_config(recipe(name)), data)
    of_model = training_data(config, data)
    model = build_model(config, of_model)
    found = activity_of(model, of_model)
    assert list(found) == posteriors
    lengths = of_model.interactions.crow.diff()
    users = lengths.nonzero().squeeze(1)
    with torch.no_grad():
        means = model.eval().posterior_means(of_model.users(users)) if posteriors else {}
    for posterior, values in found.items():
        mu = means[posterior].double().numpy()
        np.testing.assert_allclose(values["variance"], mu.var(axis=0), rtol=1e-4)
        logs = np.log(lengths[users].numpy())
        correlation = [np.corrcoef(column, logs)[0, 1] for column in mu.T]
        np.testing.assert_allclose(values["explained_by_length"], np.square(correlation), rtol=1e-3, atol=1e-6)


def test_runs_of_autoencoders_keep_their_activity(data, tmp_path):
    result = Run.open(run_of(data, tmp_path / "run", "mult-vae", "training.epochs=2")).result
    assert len(result["activity"]["collaborative"]["variance"]) == 200

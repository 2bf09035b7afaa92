"""Linear item-item models against their definitions in float64."""

import dmrec
import numpy as np
import pytest
import tiny
import torch
from dmrec.errors import DmrecError
from dmrec.models.base import TrainingData
from dmrec.models.linear.ease import EaseConfig, solve
from dmrec.models.linear.item_item import MAX_ITEMS
from dmrec.models.linear.l3ae import L3aeConfig, item_model

from dmrec_ext import Csr


@pytest.fixture
def data(dataset):
    return TrainingData(dataset.split("train"), item_embeddings=dataset.vectors().items)


@pytest.fixture
def batch(data):
    return data.users(torch.arange(10))


def _no_score(model, /, **settings):
    return 0.0


def test_ease_is_its_definition(dataset, data, batch):
    x = batch.interactions
    dense = dataset.matrix("train").toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 20 * np.eye(dataset.n_items))
    weights = np.eye(dataset.n_items) - inverse / np.diag(inverse)
    model = EaseConfig(regularisation=(20,)).build(data)
    assert model.fit(data, _no_score) == {"regularisation": 20}
    gram = dense.T @ dense
    torch.testing.assert_close(solve(gram, 20), model.weights, rtol=0, atol=0)
    np.testing.assert_array_equal(gram, dense.T @ dense)
    np.testing.assert_allclose(model.weights, weights * (1 - np.eye(dataset.n_items)), atol=1e-6)
    scores, ids = model.rank(batch, 3, exclude=x)
    expected = np.where(dense[:10] > 0, -np.inf, dense[:10] @ weights)
    np.testing.assert_array_equal(ids, np.argsort(-expected, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(scores[:, 0], expected.max(1), rtol=1e-5)


def test_ease_keeps_the_lambda_with_the_best_score(data):
    scores = {1.0: 0.2, 20.0: 0.4, 500.0: 0.3}
    model, tried = EaseConfig(regularisation=tuple(scores)).build(data), []

    def score(candidate, /, **settings):
        assert candidate is model
        tried.append((settings["regularisation"], candidate.weights.clone()))
        return scores[settings["regularisation"]]

    assert model.fit(data, score) == {"regularisation": 20.0}
    assert [value for value, _ in tried] == list(scores)
    assert torch.equal(model.weights, tried[1][1])
    assert not torch.equal(model.weights, tried[0][1])


def test_the_item_model_of_texts_is_the_constrained_minimum():
    """Stationary wherever it may move, and zero on the diagonal."""
    texts = np.random.default_rng(0).standard_normal((9, 4))
    weights = item_model(texts, 0.7)
    gradient = texts @ (texts.T @ weights - texts.T) + 0.7 * weights
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(gradient[off], 0, atol=1e-12)
    np.testing.assert_array_equal(weights.diagonal(), 0)
    inverse = np.linalg.inv(texts @ texts.T + 0.7 * np.eye(9))  # of N x N, which it does without
    np.testing.assert_allclose(weights[off], (np.eye(9) - inverse / inverse.diagonal())[off], atol=1e-12)


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_l3ae_is_the_constrained_minimum(share):
    """The gradient of its objective vanishes wherever B may move, with a negative lambda_x, too."""
    draw = np.random.default_rng(1)
    dense = (draw.random((30, 9)) < 0.4).astype(np.float64)
    texts = draw.standard_normal((9, 4)).astype(np.float32)
    rho, mu = 12.0, 0.7
    options = L3aeConfig(regularisation=(rho,), text_share=(share,), text_regularisation=(mu,))
    rows, columns = np.nonzero(dense)
    crow = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=30))])
    x = Csr(torch.from_numpy(crow), torch.from_numpy(columns), None, 9)
    model = options.build(TrainingData(x, item_embeddings=texts))
    chosen = model.fit(TrainingData(x), _no_score)
    assert chosen == {"regularisation": rho, "text_share": share, "text_regularisation": mu}
    b, c = model.weights.double().numpy(), item_model(texts.astype(np.float64), mu)
    of_text = share * rho
    gradient = dense.T @ (dense @ b - dense) + (rho - of_text) * b + of_text * (b - c)
    np.testing.assert_allclose(gradient[~np.eye(9, dtype=bool)], 0, atol=2e-5)
    np.testing.assert_array_equal(b.diagonal(), 0)


def test_l3ae_without_texts_is_ease(data):
    options = L3aeConfig(regularisation=(20,), text_share=(0,))
    model, scored = options.build(data), []

    def score(candidate, /, **settings):
        scored.append(settings)
        return 0.0

    model.fit(data, score)
    ease = EaseConfig(regularisation=(20,)).build(data)
    ease.fit(data, _no_score)
    torch.testing.assert_close(model.weights, ease.weights, rtol=1e-6, atol=1e-7)
    assert len(scored) == 1  # whatever the model of the texts


def test_l3ae_keeps_the_settings_with_the_best_score(data):
    options = L3aeConfig(regularisation=(10, 50), text_share=(0, 1, 2), text_regularisation=(1, 5))
    model, tried = options.build(data), []

    def score(candidate, /, **settings):
        tried.append((settings, candidate.weights.clone()))
        return 1.0 if settings == {"regularisation": 10, "text_share": 2, "text_regularisation": 5} else 0.0

    assert model.fit(data, score) == {"regularisation": 10, "text_share": 2, "text_regularisation": 5}
    assert len(tried) == 2 * (1 + 2 * 2)
    ((_, expected),) = [
        each for each in tried if each[0] == {"regularisation": 10, "text_share": 2, "text_regularisation": 5}
    ]
    assert torch.equal(model.weights, expected)


def test_l3ae_is_trained_saved_and_made_final(tmp_path):
    data = tiny.make(tmp_path / "data")
    model = dmrec.train("l3ae", data, out=tmp_path / "runs")
    popular = dmrec.train("popularity", data)
    assert model.result["test"]["recall@10"] > 1.5 * popular.result["test"]["recall@10"]
    again = dmrec.load(model.folder)
    assert torch.equal(again.model.weights, model.model.weights)
    assert again.recommend("u1", k=3)["item"].tolist() == model.recommend("u1", k=3)["item"].tolist()
    assert len(again.recommend(likes=["i1"], k=3)) == 3
    bare = tiny.make(tmp_path / "bare")
    for name in bare.vector_names:
        bare.manifest["vectors"].pop(name)
    with pytest.raises(DmrecError, match="l3ae is built from vectors of items, and .* has none"):
        dmrec.train("l3ae", bare)


@pytest.mark.parametrize(("config", "name"), [(EaseConfig, "EASE"), (L3aeConfig, "L3AE")])
def test_catalogues_that_are_too_large_are_refused(config, name):
    assert config().refusal(10, MAX_ITEMS) is None
    assert f"{name} inverts an items x items matrix: {MAX_ITEMS + 1} items" in config().refusal(10, MAX_ITEMS + 1)

"""Models against dense computations, and baselines against their definitions."""

import numpy as np
import pytest
import torch
from dmrec.models.baselines import Ease, Popularity
from dmrec.models.gaussian import Gaussian
from dmrec.models.layers import SparseLinear, drop_interactions, initialise, unit_rows
from dmrec.models.meta_network import MetaNetwork
from dmrec.models.mult_vae import MultVae
from dmrec.models.recommender import Recommender
from torch import nn

from dmrec_ext import Csr


@pytest.fixture
def batch(dataset):
    return Csr.from_scipy(dataset.train).rows(torch.arange(10)), torch.arange(10)


def _recommender(dataset, *, fusion="add", normalise=False, aggregate=True, dropout=0.3):
    backbone = MultVae(dataset.n_items, hidden=16, latent=6, dropout=dropout, normalise=normalise)
    vectors = dataset.vectors()
    meta_network = MetaNetwork(vectors.items, vectors.users, hidden=16, latent=6, aggregate=aggregate)
    return Recommender(backbone, meta_network, fusion)


@pytest.mark.parametrize("normalise", [False, True])
def test_mult_vae_is_the_dense_network(dataset, batch, normalise):
    x, users = batch
    model = _recommender(dataset, normalise=normalise).eval()
    vae, dense = model.backbone, x.to_dense()
    if normalise:
        dense = dense / dense.norm(dim=1, keepdim=True)
    hidden = torch.tanh(dense @ vae.encoder_input.weight + vae.encoder_input.bias)
    mu, logvar = (hidden @ vae.encoder_output.weight.T + vae.encoder_output.bias).chunk(2, 1)
    posterior = model.posteriors(x, users).collaborative
    torch.testing.assert_close(posterior.mu, mu)
    torch.testing.assert_close(posterior.logvar, logvar)
    decoded = vae.decode(mu)
    scores = decoded.hidden @ decoded.weight.T + decoded.bias
    expected = torch.tanh(mu @ vae.decoder_input.weight.T + vae.decoder_input.bias)
    torch.testing.assert_close(scores, expected @ vae.decoder_output.weight.T + vae.decoder_output.bias)


@pytest.mark.parametrize("aggregate", [True, False])
def test_meta_network_is_eq_6_and_7(dataset, batch, aggregate):
    x, users = batch
    model = _recommender(dataset, aggregate=aggregate).eval()
    meta = model.meta_network
    semantic = torch.from_numpy(np.array(meta.user_vectors[users.numpy()], dtype=np.float32)) + (
        x.to_dense() @ meta.item_vectors if aggregate else 0
    )
    first, _, second = meta.network
    hidden = torch.tanh(semantic @ first.weight.T + first.bias)
    mu, logvar = (hidden @ second.weight.T + second.bias).chunk(2, 1)
    torch.testing.assert_close(model.posteriors(x, users).language.mu, mu)
    torch.testing.assert_close(model.posteriors(x, users).language.logvar, logvar)


def test_fusion(dataset, batch):
    added = _recommender(dataset, fusion="add").eval().posteriors(*batch)
    torch.testing.assert_close(added.fused.mu, added.collaborative.mu + added.language.mu)
    torch.testing.assert_close(added.fused.logvar, added.collaborative.logvar + added.language.logvar)
    kept = _recommender(dataset, fusion="collaborative").eval().posteriors(*batch)
    assert kept.fused is kept.collaborative


def test_one_dropout_mask_for_encoder_and_meta_network(dataset, batch, monkeypatch):
    model = _recommender(dataset).train()
    seen = []
    monkeypatch.setattr(model.backbone, "encode", lambda x, dropped: seen.append((x, dropped)) or Gaussian(*[0] * 2))
    monkeypatch.setattr(
        model.meta_network, "forward", lambda dropped, users: seen.append(dropped) or Gaussian(*[0] * 2)
    )
    model.posteriors(*batch)
    (x, dropped), to_meta = seen
    assert x is batch[0]
    assert dropped is to_meta
    assert set(dropped.values.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}


def test_dropout_keeps_the_expectation_and_stops_in_evaluation(dataset, batch):
    x, users = batch
    draws = torch.stack([drop_interactions(x, 0.3).values for _ in range(4000)])
    torch.testing.assert_close(draws.mean(0), torch.ones(x.nnz), atol=0.06, rtol=0)
    assert drop_interactions(x, 0.0) is x
    model = _recommender(dataset).eval()
    torch.testing.assert_close(model.posteriors(x, users), model.posteriors(x, users), rtol=0, atol=0)


def test_unit_rows():
    x = Csr.from_torch(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(unit_rows(x).to_dense(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_sample_has_the_moments_of_its_gaussian():
    gaussian = Gaussian(torch.full((20_000, 1), 2.0), torch.full((20_000, 1), -1.0))
    z = gaussian.sample()
    assert z.mean().item() == pytest.approx(2, abs=0.02)
    assert z.var().item() == pytest.approx(np.exp(-1), abs=0.02)


def test_prediction_is_the_mean_and_ranks_what_it_scores(dataset, batch):
    x, users = batch
    model = _recommender(dataset)
    model.train()
    _, ids = model.rank(x, users, 5, exclude=x)
    hidden, weight, bias = model.backbone.decode(model.posteriors(x, users).fused.mu)
    scores = (hidden @ weight.T + bias).masked_fill(x.to_dense() > 0, -torch.inf)
    assert torch.equal(ids, scores.argsort(dim=1, descending=True)[:, :5])
    assert torch.equal(model.rank(x, users, 5, exclude=x)[1], ids)


def test_initialisation():
    torch.manual_seed(0)
    plain = SparseLinear(400, 30)
    assert plain.weight.abs().max() <= 1 / 20
    assert plain.weight.abs().max() > 0.99 / 20
    torch.manual_seed(0)
    assert nn.Linear(400, 30).weight.abs().max() <= 1 / 20
    initialise(plain, "xavier")
    bound = np.sqrt(6 / 430)
    assert 0.99 * bound < plain.weight.abs().max() <= bound
    assert plain.bias.abs().max() == 0


def test_popularity(dataset, batch):
    x, users = batch
    scores, ids = Popularity(dataset.train).rank(x, users, 4, exclude=None)
    counts = np.asarray(dataset.train.sum(0)).ravel()
    np.testing.assert_array_equal(scores[0], np.sort(counts)[::-1][:4])
    assert ids[0].tolist() == sorted(range(len(counts)), key=lambda i: (-counts[i], i))[:4]


def test_ease_is_its_definition(dataset, batch):
    x, users = batch
    dense = dataset.train.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 20 * np.eye(dataset.n_items))
    weights = np.eye(dataset.n_items) - inverse / np.diag(inverse)
    model = Ease.fit(Ease.gram(dataset.train), 20)
    np.testing.assert_allclose(model.weights, weights * (1 - np.eye(dataset.n_items)), atol=1e-6)
    scores, ids = model.rank(x, users, 3, exclude=x)
    expected = np.where(dense[:10] > 0, -np.inf, dense[:10] @ weights)
    np.testing.assert_array_equal(ids, np.argsort(-expected, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(scores[:, 0], expected.max(1), rtol=1e-5)

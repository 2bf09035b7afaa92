"""Models against dense computations, and baselines against their definitions."""

import numpy as np
import pytest
import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.models.base import MODELS, TrainingData, UserBatch, evaluating
from dmrec.models.dmrec.model import Dmrec
from dmrec.models.dmrec.options import LanguageConfig, MatchingConfig
from dmrec.models.linear.popularity import PopularityConfig
from dmrec.models.vae.gaussian import Gaussian
from dmrec.models.vae.layers import SparseLinear, drop_interactions, initialise, unit_rows, without_rows
from dmrec.models.vae.mult_vae import MultVaeConfig
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.sharding.items import ItemShards
from torch import nn

from dmrec_ext import Csr


@pytest.fixture
def data(dataset):
    vectors = dataset.vectors()
    return TrainingData(dataset.split("train"), vectors.items, vectors.users)


@pytest.fixture
def batch(data):
    return data.users(torch.arange(10))


def _recommender(data, *, fusion="add", normalise=False, aggregate=True, dropout=0.3):
    backbone = MultVaeConfig(hidden=16, latent=6, dropout=dropout, normalise=normalise).backbone(data)
    language = LanguageConfig(hidden=16, aggregate=aggregate, fusion=fusion)
    return Dmrec(backbone, data, language, MatchingConfig())


@pytest.mark.parametrize("normalise", [False, True])
def test_mult_vae_is_the_dense_network(data, batch, normalise):
    x = batch.interactions
    model = _recommender(data, normalise=normalise).eval()
    vae, dense = model.backbone, x.to_dense()
    if normalise:
        dense = dense / dense.norm(dim=1, keepdim=True)
    hidden = torch.tanh(dense @ vae.encoder_input.weight + vae.encoder_input.bias)
    mu, logvar = (hidden @ vae.encoder_output.weight.T + vae.encoder_output.bias).chunk(2, 1)
    posterior = model.posteriors(batch).collaborative
    torch.testing.assert_close(posterior.mu, mu)
    torch.testing.assert_close(posterior.logvar, logvar)
    decoded = vae.decode(mu)
    scores = decoded.hidden @ decoded.weight.T + decoded.bias
    expected = torch.tanh(mu @ vae.decoder_input.weight.T + vae.decoder_input.bias)
    torch.testing.assert_close(scores, expected @ vae.decoder_output.weight.T + vae.decoder_output.bias)


@pytest.mark.parametrize("aggregate", [True, False])
def test_meta_network_is_eq_6_and_7(data, batch, aggregate):
    x = batch.interactions
    model = _recommender(data, aggregate=aggregate).eval()
    meta = model.meta_network
    semantic = torch.from_numpy(np.array(data.user_text_vectors[:10], dtype=np.float32)) + (
        x.to_dense() @ meta.item_vectors if aggregate else 0
    )
    first, _, second = meta.network
    hidden = torch.tanh(semantic @ first.weight.T + first.bias)
    mu, logvar = (hidden @ second.weight.T + second.bias).chunk(2, 1)
    torch.testing.assert_close(model.posteriors(batch).language.mu, mu)
    torch.testing.assert_close(model.posteriors(batch).language.logvar, logvar)


def test_fusion(data, batch):
    added = _recommender(data, fusion="add").eval().posteriors(batch)
    torch.testing.assert_close(added.fused.mu, added.collaborative.mu + added.language.mu)
    torch.testing.assert_close(added.fused.logvar, added.collaborative.logvar + added.language.logvar)
    kept = _recommender(data, fusion="collaborative").eval().posteriors(batch)
    assert kept.fused is kept.collaborative


def test_one_dropout_mask_for_encoder_and_meta_network(data, batch, monkeypatch):
    model = _recommender(data).train()
    seen = []
    monkeypatch.setattr(model.backbone, "encode", lambda x, dropped: seen.append((x, dropped)) or Gaussian(*[0] * 2))
    monkeypatch.setattr(
        model.meta_network, "forward", lambda dropped, users: seen.append(dropped) or Gaussian(*[0] * 2)
    )
    model.posteriors(batch)
    (x, dropped), to_meta = seen
    assert x is batch.interactions
    assert dropped is to_meta
    assert set(dropped.values.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}


@pytest.mark.parametrize("name", ["dmrec-m", "cvga-m"])
def test_texts_rank_alone_for_a_share_of_the_users(name, dataset):
    """Encoder and meta-network get nothing of what these users interacted with, and all of it is to be found."""
    config = build_config(apply_overrides(recipe(name), ["language.alone=0.4", "model.dropout=0"]))
    config = resolve(config, dataset)
    model = build_model(config, training_data(config, dataset)).train()
    everybody = torch.arange(dataset.n_users)
    torch.manual_seed(0)
    batch = model.batch(everybody)
    alone = batch.given.crow.diff() == 0
    assert 0.3 < alone.float().mean() < 0.5
    assert batch.interactions.nnz == dataset.split("train").nnz
    expected = torch.from_numpy(batch.interactions.to_scipy().toarray()) * ~alone[:, None]
    np.testing.assert_array_equal(batch.given.to_scipy().toarray(), expected)
    nothing = model.posteriors(batch._replace(given=without_rows(batch.interactions, torch.ones_like(alone))))
    q, whole = model.posteriors(batch), model.posteriors(batch._replace(given=None))
    for found, empty, full in zip(q.fused, nothing.fused, whole.fused, strict=True):
        torch.testing.assert_close(found[alone], empty[alone])
        torch.testing.assert_close(found[~alone], full[~alone])
    assert not torch.allclose(q.fused.mu[alone], whole.fused.mu[alone])
    with pytest.raises(DmrecError, match="a text alone ranks nothing: leave out alone"):
        build_config(apply_overrides(recipe(name), ["language.alone=0.4", "language.fusion=collaborative"]))


def test_dropout_keeps_the_expectation_and_stops_in_evaluation(data, batch):
    x = batch.interactions
    draws = torch.stack([drop_interactions(x, 0.3).values for _ in range(4000)])
    torch.testing.assert_close(draws.mean(0), torch.ones(x.nnz), atol=0.06, rtol=0)
    assert drop_interactions(x, 0.0) is x
    model = _recommender(data).eval()
    torch.testing.assert_close(model.posteriors(batch), model.posteriors(batch), rtol=0, atol=0)


def test_unit_rows():
    x = Csr.from_torch(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(unit_rows(x).to_dense(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_sample_has_the_moments_of_its_gaussian():
    gaussian = Gaussian(torch.full((20_000, 1), 2.0), torch.full((20_000, 1), -1.0))
    z = gaussian.sample()
    assert z.mean().item() == pytest.approx(2, abs=0.02)
    assert z.var().item() == pytest.approx(np.exp(-1), abs=0.02)


def test_prediction_is_the_mean_and_ranks_what_it_scores(data, batch):
    x = batch.interactions
    model = _recommender(data)
    model.train()
    with evaluating(model):
        _, ids = model.rank(batch, 5, exclude=x)
    assert model.training, "the mode is restored"
    model.eval()
    hidden, weight, bias = model.backbone.decode(model.posteriors(batch).fused.mu)
    scores = (hidden @ weight.T + bias).masked_fill(x.to_dense() > 0, -torch.inf)
    assert torch.equal(ids, scores.argsort(dim=1, descending=True)[:, :5])
    assert torch.equal(model.rank(batch, 5, exclude=x)[1], ids)
    torch.testing.assert_close(model.item_vectors(), model.backbone.decoder_output.weight)


def test_initialisation():
    torch.manual_seed(0)
    plain = SparseLinear(ItemShards(400), 30)
    assert plain.weight.abs().max() <= 1 / 20
    assert plain.weight.abs().max() > 0.99 / 20
    torch.manual_seed(0)
    assert nn.Linear(400, 30).weight.abs().max() <= 1 / 20
    initialise(plain, "xavier")
    bound = np.sqrt(6 / 430)
    assert 0.99 * bound < plain.weight.abs().max() <= bound
    assert plain.bias.abs().max() == 0


def _no_score(model, /, **settings):
    return 0.0


def test_popularity(dataset, data, batch):
    model = PopularityConfig().build(data)
    assert model.fit(data, _no_score) == {}
    scores, ids = model.rank(batch, 4)
    counts = np.asarray(dataset.matrix("train").sum(0)).ravel()
    np.testing.assert_array_equal(scores[0], np.sort(counts)[::-1][:4])
    assert ids[0].tolist() == sorted(range(len(counts)), key=lambda i: (-counts[i], i))[:4]


def test_new_users_without_a_text_have_the_zero_vector(data, batch):
    model = _recommender(data).eval()
    without = model.posteriors(UserBatch(None, batch.interactions)).language.mu
    zeros = model.posteriors(batch._replace(text_vectors=torch.zeros(10, 8))).language.mu
    torch.testing.assert_close(without, zeros, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["ease", "popularity"])
def test_models_without_item_vectors_say_so(kind, data):
    with pytest.raises(DmrecError, match="does not represent items by vectors"):
        MODELS[kind]().build(data).item_vectors()


def test_a_batch_of_users_is_their_rows(data):
    batch = data.users(torch.tensor([5, 2, 5]))
    assert batch.size == 3
    assert batch.ids.tolist() == [5, 2, 5]
    torch.testing.assert_close(batch.interactions.to_dense(), data.interactions.to_dense()[[5, 2, 5]])
    expected = np.asarray(data.user_text_vectors[[5, 2, 5]], dtype=np.float32)
    np.testing.assert_array_equal(batch.text_vectors, expected)
    assert data._replace(user_text_vectors=None).users(torch.tensor([1])).text_vectors is None

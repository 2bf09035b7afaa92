"""CVGA, L-DiffRec and LightGCN against their definitions written out densely."""

import math

import numpy as np
import pytest
import torch
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.models.base import Step, TrainingData, UserBatch, evaluating
from dmrec.models.graph.lightgcn import LightGcnConfig
from dmrec.models.graph.pairs import Pairs
from dmrec.models.graph.propagation import normalized_adjacency
from dmrec.models.vae.cvga import CvgaConfig
from dmrec.models.vae.gaussian import Gaussian
from dmrec.models.vae.l_diffrec import HISTORY, LDiffRec, LDiffRecConfig, by_cluster, clusters_of
from scipy import sparse

from dmrec_ext import Csr

DENSE = torch.from_numpy((np.random.default_rng(0).random((12, 9)) < 0.4).astype(np.float32))
DENSE[3] = 0  # a user without interactions
DENSE[:, 5] = 0  # an item without
X = Csr.from_scipy(sparse.csr_matrix(DENSE.numpy()))
DATA = TrainingData(X, item_embeddings=np.random.default_rng(1).random((9, 4)))


def _inverse_root(degree):
    return torch.where(degree > 0, degree.clamp_min(1).rsqrt(), 0)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_cvga_encodes_rows_of_the_normalised_graph(hidden):
    model = CvgaConfig(latent=6, hidden=hidden).backbone(DATA).eval()
    found = model.encode(X, X)
    r = _inverse_root(DENSE.sum(1))[:, None] * DENSE * _inverse_root(DENSE.sum(0))
    output = r @ model.propagation.weight + model.propagation.bias
    for layer in model.layers:
        output = layer(torch.tanh(output))
    torch.testing.assert_close(torch.cat(found, 1), output)
    z = torch.randn(12, 6)
    scores, weight, bias = model.decode(z)
    assert scores is z
    torch.testing.assert_close(scores @ weight.T + bias, model.decoder(z))


def test_cvga_drops_the_posterior_and_not_its_input():
    model = CvgaConfig(latent=200, dropout=0.5).backbone(DATA).train()
    nothing = X._replace(values=torch.zeros(X.nnz))
    found = torch.cat(model.encode(X, nothing), 1)
    kept = found != 0
    assert 0.4 < kept.float().mean() < 0.6
    whole = torch.cat(model.eval().encode(X, nothing), 1)
    torch.testing.assert_close(found[kept], 2 * whole[kept])


def _l_diffrec(**options):
    return LDiffRecConfig(latent=10, hidden=8, **options).backbone(DATA)


@pytest.mark.parametrize("clusters", [1, 2, 3])
def test_l_diffrec_encodes_cluster_by_cluster(clusters):
    model = _l_diffrec(clusters=clusters).eval()
    assert len(model.widths) == clusters
    found = model.encode(X, X)
    assert found.mu.shape == (12, 10)
    means, logvars = [], []
    for number, width in enumerate(model.widths):
        mine = model.cluster == number
        weight, bias = model.encoder_weight[mine, : 2 * width], model.encoder_bias[number, : 2 * width]
        assert not model.encoder_weight[mine, 2 * width :].any(), "columns of other clusters are not used"
        output = torch.tanh(DENSE[:, mine] @ weight + bias)
        mean, logvar = output.chunk(2, dim=1)
        means.append(mean)
        logvars.append(logvar)
    torch.testing.assert_close(found.mu, torch.cat(means, 1))
    torch.testing.assert_close(found.logvar, torch.cat(logvars, 1))
    half = X._replace(values=torch.full((X.nnz,), 0.5))
    assert not torch.allclose(model.encode(X, half).mu, found.mu)


def test_clusters_are_those_of_the_vectors_and_always_the_same():
    rng = np.random.default_rng(3)
    centres = np.eye(3, 16)
    label = rng.integers(3, size=60)
    vectors = 5 * centres[label] + 0.3 * rng.standard_normal((60, 16))
    found = clusters_of(vectors.astype(np.float16), 3)
    assert torch.equal(found, clusters_of(vectors.astype(np.float16), 3))
    assert len({(a, b) for a, b in zip(label, found.tolist(), strict=True)}) == 3
    without = DATA._replace(item_embeddings=None)
    with pytest.raises(DmrecError, match="set model.item_embeddings, or model.clusters to 1"):
        LDiffRecConfig().build(without)
    saved = {"backbone.cluster": torch.tensor([0, 1, 2] * 3)}
    again = LDiffRecConfig(latent=10).backbone(without._replace(state=saved))
    assert torch.equal(again.cluster, saved["backbone.cluster"])


def test_the_diffusion_has_the_published_coefficients():
    model = _l_diffrec(steps=4, noise_scale=0.1, noise_min=0.01, noise_max=0.4)
    kept = 1 - torch.linspace(0.001, 0.04, 4, dtype=torch.float64)
    torch.testing.assert_close(model.alpha_bar.double(), kept, rtol=1e-6, atol=0)
    snr = kept / (1 - kept)
    torch.testing.assert_close(model.loss_weight.double()[1:], snr[:-1] - snr[1:], rtol=1e-5, atol=0)
    assert model.loss_weight[0] == 1
    # the mean of q(z_{t-1} | z_t, z_0) by Bayes' rule: z_t = sqrt(1 - beta) z_{t-1} + noise, z_{t-1} around z_0
    for t in range(1, 4):
        beta = 1 - kept[t] / kept[t - 1]
        precision = 1 / (1 - kept[t - 1]) + (1 - beta) / beta
        of_prediction = kept[t - 1].sqrt() / (1 - kept[t - 1]) / precision
        of_state = (1 - beta).sqrt() / beta / precision
        assert model.posterior_mean_coef1[t].item() == pytest.approx(of_prediction.item(), rel=1e-5)
        assert model.posterior_mean_coef2[t].item() == pytest.approx(of_state.item(), rel=1e-5)
    assert (model.posterior_mean_coef1[0].item(), model.posterior_mean_coef2[0].item()) == (1, 0)


def test_recommending_runs_the_reverse_steps_from_the_mean():
    model = _l_diffrec(steps=3).eval()
    z = mu = torch.randn(5, 10)
    for t in (2, 1, 0):
        frequency = torch.exp(-math.log(10000) * torch.arange(5) / 5)
        time = model.time(torch.cat([(t * frequency).cos(), (t * frequency).sin()]).expand(5, 10))
        predicted = model.denoiser_output(torch.tanh(model.denoiser_input(torch.cat([z, time], 1))))
        z = model.posterior_mean_coef1[t] * predicted + model.posterior_mean_coef2[t] * z
    torch.testing.assert_close(model.infer(Gaussian(mu, torch.zeros(5, 10))), z)


def test_the_loss_of_the_diffusion(monkeypatch):
    """Every step with its noise, weight and probability; the history by hand; weights fall with the epoch."""
    model = _l_diffrec(steps=3, noise_scale=1.0, noise_min=0.1, noise_max=0.3, weight=0.04, denoiser_dropout=0.0).eval()
    posterior = Gaussian(torch.randn(50, 10), torch.full((50, 10), -30.0))  # z_0 is the mean
    expected_history = [[], [], []]
    for epoch in (1, 100, 499):
        torch.manual_seed(epoch)
        decoded, auxiliary = model.reconstruct(posterior, Step(epoch=epoch))
        torch.manual_seed(epoch)
        z_0 = posterior.sample()
        share = torch.full((3,), 1 / 3)
        if all(len(history) == HISTORY for history in expected_history):
            root = torch.tensor([math.sqrt(sum(v * v for v in history) / HISTORY) for history in expected_history])
            share = 0.999 * root / root.sum() + 0.001 / 3
        step = torch.multinomial(share, 50, replacement=True)
        kept = model.alpha_bar[step][:, None]
        noised = kept.sqrt() * z_0 + (1 - kept).sqrt() * torch.randn(50, 10)
        predicted = model.denoise(noised, step)
        error = model.loss_weight[step] * ((z_0 - predicted) ** 2).mean(1)
        for t, value in zip(step.tolist(), error.tolist(), strict=True):
            expected_history[t] = [*expected_history[t], value][-HISTORY:]
        weight = max(0.005, 0.04 * (1 - epoch / 500))
        assert auxiliary.item() == pytest.approx(weight * (error / (3 * share[step])).mean().item(), rel=1e-5)
        torch.testing.assert_close(decoded.hidden, predicted)
        for t in range(3):
            seen = int(model.seen[t])
            torch.testing.assert_close(model.losses[t, :seen], torch.tensor(expected_history[t]))
    assert {"losses", "seen", "cluster", "encoder_weight"} <= model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 2, "clusters": 3}, "3 clusters cannot share 2 latent dimensions"),
        ({"noise_min": 0.5, "noise_max": 0.1}, "noise_min must not exceed noise_max"),
        ({"noise_scale": 10.0, "noise_max": 0.5}, "noise_scale x noise_max must stay below 1"),
    ],
)
def test_impossible_options_of_l_diffrec(options, message):
    with pytest.raises(DmrecError, match=message):
        build_config({"name": "x", "model": {"kind": "l-diffrec", **options}})


@pytest.mark.parametrize(("latent", "clusters"), [(3, 3), (7, 3), (300, 2)])
def test_clusters_share_all_dimensions(latent, clusters):
    label = torch.tensor([0] * 7 + [1] + ([2] if clusters == 3 else [1]))
    model = LDiffRec(LDiffRecConfig(latent=latent, hidden=4, clusters=clusters), label)
    assert sum(model.widths) == latent
    assert min(model.widths) >= 1


def test_the_denoiser_learns_at_its_own_rate():
    model = _l_diffrec(denoiser_rate=0.5)
    groups = list(model.parameter_groups(0.25))
    assert [group["lr"] for group in groups] == [0.25, 0.5]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert any(p is model.denoiser_input.weight for p in groups[1]["params"])
    assert isinstance(model, LDiffRec)


def test_lightgcn_is_the_mean_of_powers_of_the_graph():
    model = LightGcnConfig(embedding_dim=5, layers=2).build(DATA)
    adjacency = torch.zeros(21, 21)
    adjacency[:12, 12:], adjacency[12:, :12] = DENSE, DENSE.T
    root = _inverse_root(adjacency.sum(1))
    normalised = root[:, None] * adjacency * root
    torch.testing.assert_close(normalized_adjacency(X).to_dense(), normalised)
    expected = (model.vectors + normalised @ model.vectors + normalised @ normalised @ model.vectors) / 3
    torch.testing.assert_close(model.propagate(), expected)
    scores = expected[:12] @ expected[12:].T
    users = torch.tensor([0, 3, 7])
    with evaluating(model):
        found, ids = model.rank(DATA.users(users), 4)
    torch.testing.assert_close(found, scores[users].topk(4).values)
    torch.testing.assert_close(scores[users].gather(1, ids), found)
    gradient = torch.autograd.grad(model.propagate().square().sum(), model.vectors)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), model.vectors)[0])


def test_lightgcn_draws_items_that_the_user_has_none_with():
    model = LightGcnConfig(embedding_dim=5).build(DATA)
    entries = torch.arange(model.n_examples).repeat(50)
    user, item, other = model.batch(entries)[:3]
    assert bool((DENSE[user, item] == 1).all())
    assert bool((DENSE[user, other] == 0).all())
    drawn = torch.bincount(other[user == user[0]], minlength=9)
    assert bool((drawn[DENSE[user[0]] == 0] > 0).all())
    everything = TrainingData(Csr.from_scipy(sparse.csr_matrix(np.ones((2, 3)))))
    assert LightGcnConfig(embedding_dim=2).build(everything).batch(torch.arange(6)).negative.shape == (6,)


def test_lightgcn_loss():
    model = LightGcnConfig(embedding_dim=5, l2=0.01).build(DATA)
    user, item, other = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 5])
    vectors = model.propagate()
    margin = (vectors[user] * (vectors[12 + item] - vectors[12 + other])).sum(1)
    losses = model.loss(Pairs(user, item, other), Step())
    torch.testing.assert_close(losses["bpr"], -torch.log(torch.sigmoid(margin)).mean())
    ego = [model.vectors[user], model.vectors[12 + item], model.vectors[12 + other]]
    torch.testing.assert_close(losses["l2"], 0.01 * sum(e.square().sum() for e in ego) / 4)


def test_lightgcn_propagates_once_for_a_ranking_and_never_ranks_by_older_embeddings(monkeypatch):
    model = LightGcnConfig(embedding_dim=5).build(DATA)
    users, calls = torch.tensor([0, 1]), []
    original = model.propagate
    monkeypatch.setattr(model, "propagate", lambda: calls.append(1) or original())
    with evaluating(model):
        before = model.rank(DATA.users(users), 4)[0]
        model.rank(DATA.users(users), 4)
    assert len(calls) == 1
    with torch.no_grad():
        model.vectors.mul_(2)
    with evaluating(model):
        torch.testing.assert_close(model.rank(DATA.users(users), 4)[0], 4 * before)
    model.eval().rank(DATA.users(users), 4)
    model.load_state_dict({"vectors": model.vectors.detach() / 2})
    torch.testing.assert_close(model.rank(DATA.users(users), 4)[0], before)
    with pytest.raises(DmrecError, match="lightgcn knows only the users it was trained on"):
        model.rank(UserBatch(None, X.rows(users)), 4)


def test_entries_by_cluster():
    cluster = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    parts = by_cluster(X._replace(values=torch.arange(1.0, X.nnz + 1)), cluster, 3)
    dense = X._replace(values=torch.arange(1.0, X.nnz + 1)).to_dense()
    expected = torch.cat([torch.where(cluster == k, dense, 0) for k in range(3)])
    torch.testing.assert_close(parts.to_dense(), expected)
    assert by_cluster(X, cluster, 3).values is None


def test_l_diffrec_reads_the_states_of_version_0_1():
    """They had an encoder for each cluster, and the row of each item in it."""
    model = _l_diffrec(clusters=2)
    old = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder_")}
    old["place"] = torch.zeros(9, dtype=torch.int64)
    expected = torch.zeros_like(model.encoder_weight)
    for number, width in enumerate(model.widths):
        mine = (model.cluster == number).nonzero().squeeze(1)
        old["place"][mine] = torch.arange(len(mine))
        old[f"encoders.{number}.weight"] = torch.randn(len(mine), 2 * width)
        old[f"encoders.{number}.bias"] = torch.randn(2 * width)
        expected[mine, : 2 * width] = old[f"encoders.{number}.weight"]
    model.load_state_dict(dict(old))
    torch.testing.assert_close(model.encoder_weight, expected)
    torch.testing.assert_close(model.encoder_bias[1, : 2 * model.widths[1]], old["encoders.1.bias"])


def test_what_has_no_posterior_takes_no_language():
    with pytest.raises(DmrecError, match="model 'lightgcn' has no posterior to match"):
        build_config({"name": "x", "model": {"kind": "lightgcn"}, "language": {}, "matching": {}})

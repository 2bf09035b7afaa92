"""The loss terms of one training step equal the closed forms, written out again in numpy."""

import numpy as np
import pytest
import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.models.base import Step
from dmrec.models.dmrec.matching import MatchingLoss, Posteriors, PriorKL
from dmrec.models.dmrec.options import MatchingConfig
from dmrec.models.vae.gaussian import Gaussian
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve


def _step(name, dataset, *settings):
    """Posteriors and loss parts of the first training step."""
    overrides = ["model.hidden=16", "model.latent=6", *settings]
    config = resolve(build_config(apply_overrides(recipe(name), overrides)), dataset)
    torch.manual_seed(0)
    model = build_model(config, training_data(config, dataset)).train()
    for parameter in model.parameters():  # posteriors that are far from the prior and from each other
        parameter.data.mul_(3)
    batch = model.batch(torch.arange(dataset.n_users))
    torch.manual_seed(1)
    parts = model.loss(batch, Step())
    torch.manual_seed(1)  # the same dropout and noise again
    q = model.posteriors(batch) if name != "mult-vae" else (model.posterior(batch),)
    decoded = model.backbone.decode(q[-1].sample())
    arrays = [[t.detach().double().numpy() for t in gaussian] for gaussian in q]
    return parts, arrays, (*decoded, batch.interactions)


def _kl_prior(mu, logvar):
    return 0.5 * np.sum(mu**2 + np.exp(logvar) - 1 - logvar, 1)


@pytest.mark.parametrize("strategy", ["godm", "cpdm", "mddm"])
def test_matching_is_its_closed_form_under_addition(dataset, strategy):
    name, beta = {"godm": ("dmrec-g", 0.4), "cpdm": ("dmrec-c", 0.2), "mddm": ("dmrec-m", 0.5)}[strategy]
    parts, ((m, s), (mu_l, s_l), fused), _ = _step(name, dataset)
    regulariser = _kl_prior(m + mu_l, s + s_l)
    np.testing.assert_allclose(fused[0], m + mu_l, rtol=1e-5, atol=1e-6)
    if strategy == "godm":
        distance = np.sqrt(np.sum((mu_l - m) ** 2 + (np.exp(s_l / 2) - np.exp(s / 2)) ** 2, 1) + 1e-7)
        expected = regulariser + beta * distance
    elif strategy == "cpdm":  # neither divergence depends on mu_l
        composite = np.sum(np.cosh(s / 2) - 1 + m**2 / 4 * np.exp(-s_l - s / 2), 1)
        expected = regulariser + beta * composite
    else:
        divergence = 0.5 * np.sum(np.exp(s) + m**2 * np.exp(-s_l) - 1 - s, 1)
        expected = beta * regulariser + (1 - beta) * divergence
    assert parts["matching"].item() == pytest.approx(expected.mean(), rel=1e-5)


def test_reconstruction_is_the_multinomial_likelihood(dataset):
    parts, _, (hidden, weight, bias, x) = _step("dmrec-m", dataset)
    logits = (hidden @ weight.T + bias).detach().double().numpy()
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(x.to_dense().numpy() * log_softmax).sum(1).mean()
    assert parts["reconstruction"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["mult-vae", "dmrec-m"])
def test_base_models_and_the_ablation_without_matching_have_the_prior_alone(dataset, name):
    settings = ["matching.strategy=none"] if name == "dmrec-m" else []
    parts, (*_, fused), _ = _step(name, dataset, *settings)
    name = "matching" if settings else "kl"
    assert parts[name].item() == pytest.approx(_kl_prior(*fused).mean(), rel=1e-5)


def test_kl_and_collaborative_fusion(dataset):
    settings = ["matching.strategy=kl", "language.fusion=collaborative"]
    parts, ((m, s), (mu_l, s_l), fused), _ = _step("dmrec-m", dataset, *settings)
    np.testing.assert_array_equal(fused[0], m)
    divergence = 0.5 * np.sum(s_l - s + (np.exp(s) + (m - mu_l) ** 2) / np.exp(s_l) - 1, 1)
    assert parts["matching"].item() == pytest.approx((_kl_prior(m, s) + 0.5 * divergence).mean(), rel=1e-5)


@pytest.mark.parametrize(("strategy", "term"), [("godm", "w2"), ("cpdm", "composite"), ("mddm", "kl_language")])
def test_logged_terms_add_up_to_the_loss(strategy, term):
    collaborative, language = (Gaussian(torch.randn(5, 4), torch.randn(5, 4)) for _ in range(2))
    q = Posteriors(collaborative, language, collaborative + language)
    matching = MatchingLoss(MatchingConfig(strategy=strategy, beta=0.3), "add")
    terms = {name: float(value) for name, value in matching.terms(q).items()}
    prior = terms["kl_prior"] * (0.3 if strategy == "mddm" else 1.0)
    weighted = terms[term] * (0.7 if strategy == "mddm" else 0.3)
    assert matching.loss(q, 0.3).item() == pytest.approx(prior + weighted, rel=1e-5)
    assert float(PriorKL().terms(q)["kl_prior"]) == pytest.approx(PriorKL().loss(q, 0.0).item())


def test_beta_is_fixed_or_drawn_per_batch():
    fixed = MatchingLoss(MatchingConfig(beta=0.3), "add")
    assert {fixed.draw_beta() for _ in range(5)} == {0.3}
    random = MatchingLoss(MatchingConfig(beta=0.3, beta_concentration=0.4), "add")
    drawn = [random.draw_beta() for _ in range(2000)]
    assert min(drawn) >= 0
    assert max(drawn) <= 1
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)
    assert np.var(drawn) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)  # of Beta(a, a)

"""matching_loss: each strategy is the sum of operators that its equation says, for both fusions."""

import pytest
import torch

from dmrec_ext import composite_prior, gaussian_kl, gaussian_w2, matching_loss

STRATEGIES = ("godm", "cpdm", "mddm", "unmixed")


def _rows(size=(5, 9), dtype=torch.float64):
    return [torch.randn(size, dtype=torch.float64).to(dtype) for _ in range(4)]


@pytest.mark.parametrize("fusion", ["add", "collaborative"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_is_the_sum_of_its_terms(strategy, fusion):
    mu_c, logvar_c, mu_l, logvar_l = rows = _rows()
    q = (mu_c + mu_l, logvar_c + logvar_l) if fusion == "add" else (mu_c, logvar_c)
    p = (mu_l, logvar_l)
    beta = 0.3
    expected = {
        "godm": gaussian_kl(*q) + beta * gaussian_w2(mu_c, logvar_c, *p, eps=1e-7),
        "cpdm": gaussian_kl(*q) + beta * composite_prior(*q, *p),
        "mddm": beta * gaussian_kl(*q) + (1 - beta) * gaussian_kl(*q, *p),
        "unmixed": gaussian_kl(*q) + beta * gaussian_kl(*q, *p),
    }[strategy]
    for weight in (beta, torch.tensor(beta, dtype=torch.float64)):
        result = matching_loss(*rows, strategy=strategy, beta=weight, eps=1e-7, fusion=fusion)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("strategy", ["cpdm", "mddm", "unmixed"])
def test_under_addition_the_divergence_ignores_the_mean_of_language(strategy):
    mu_c, logvar_c, mu_l, logvar_l = _rows()

    def matched(mu):
        whole = matching_loss(mu_c, logvar_c, mu, logvar_l, strategy=strategy, beta=0.4)
        return whole - (0.4 if strategy == "mddm" else 1) * gaussian_kl(mu_c + mu, logvar_c + logvar_l)

    torch.testing.assert_close(matched(mu_l), matched(mu_l + 3))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_derivatives(strategy):
    rows = [x.requires_grad_() for x in _rows((2, 4))]
    beta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b, *x: matching_loss(*x, strategy=strategy, beta=b), [beta, *rows])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "gdom"}, ValueError, "strategy must be one of 'godm', 'cpdm', 'mddm', 'unmixed', got 'gdom'"),
        ({"fusion": "sum"}, ValueError, "fusion must be one of 'add', 'collaborative', got 'sum'"),
        ({"beta": "high"}, TypeError, "beta must be a number or a tensor of 0 dimensions, got str"),
        ({"beta": torch.zeros(3)}, ValueError, r"beta must have 0 dimensions, got 1 \(shape \(3,\)\)"),
        ({"alpha": -0.1}, ValueError, r"alpha must lie in \[0, 1\], got -0.1"),
    ],
)
def test_bad_input(options, error, message):
    rows = _rows((2, 3))
    with pytest.raises(error, match=f"matching_loss: {message}"):
        matching_loss(*rows, **{"strategy": "mddm", "beta": 0.5, **options})

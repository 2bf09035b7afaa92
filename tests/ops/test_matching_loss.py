"""matching_loss: each strategy is the sum of operators that its equation says, for both fusions."""

import functools

import pytest
import torch
from op_testing import SHARED_CHECKS, OpCase

import dmrec_ext
from dmrec_ext import composite_prior, gaussian_kl, gaussian_w2, matching_loss, reference

STRATEGIES = ("godm", "cpdm", "mddm", "kl")
FUSIONS = ("add", "collaborative")


def _case(strategy, fusion, **others):
    options = {"strategy": strategy, "beta": 0.4, "fusion": fusion, **others}
    operator = None if dmrec_ext.NATIVE_ABSENT else torch.ops.dmrec_ext.matching_loss.default
    function, plain = (functools.partial(f, **options) for f in (matching_loss, reference.matching_loss))
    defaults = {"interpolation": "log_linear", "squared": False, "eps": 0.0}
    by_position = (strategy, 0.4, 0.5, *(others.get(name, value) for name, value in defaults.items()), fusion)
    return OpCase(
        " ".join(map(str, [strategy, fusion, *others.values()])), function, plain, operator, 4, plain, by_position
    )


CASES = [_case(strategy, fusion) for strategy in STRATEGIES for fusion in FUSIONS]
CASES += [_case("godm", "add", squared=True), _case("godm", "add", eps=0.1)]
CASES += [_case("cpdm", "add", interpolation=interpolation) for interpolation in ("linear", "moment")]


@pytest.mark.parametrize("check", SHARED_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_shared(case, check, native):
    check(case)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_extremes_are_never_nan(strategy, fusion, beta, native):
    values = torch.tensor([0.0, 1e-30, 1.0, 80.0, -80.0, 170.0, -170.0, 400.0, -400.0, 1e19, -1e19])
    rows = [x.reshape(-1, 1).clone().requires_grad_() for x in torch.meshgrid(*[values] * 4, indexing="ij")]
    result = matching_loss(*rows, strategy=strategy, beta=beta, fusion=fusion)
    result.backward(torch.ones(len(result)))
    assert (result >= 0).all()
    finite = result < 1e37  # near the limit and beyond, terms of both signs overflow, and their difference is nothing
    assert finite.sum() > 100
    assert not any(x.grad[finite].isnan().any() for x in rows)


def test_a_beta_that_wants_a_gradient_gets_it():
    rows = [torch.randn(3, 4) for _ in range(4)]
    beta = torch.tensor(0.3, requires_grad=True)
    matching_loss(*rows, strategy="kl", beta=beta).sum().backward()
    q = (rows[0] + rows[2], rows[1] + rows[3])
    torch.testing.assert_close(beta.grad, gaussian_kl(*q, *rows[2:]).sum())


def test_the_raw_operator_refuses_unknown_options(native):
    x = torch.zeros(2, 3)
    good = {"strategy": "cpdm", "interpolation": "linear", "fusion": "add"}
    for name in good:
        o = {**good, name: "none"}
        with pytest.raises(RuntimeError, match=f"matching_loss: {name} must be"):
            torch.ops.dmrec_ext.matching_loss(
                x, x, x, x, o["strategy"], 0.5, 0.5, o["interpolation"], False, 0.0, o["fusion"]
            )


def _rows(size=(5, 9), dtype=torch.float64):
    return [torch.randn(size, dtype=torch.float64).to(dtype) for _ in range(4)]


@pytest.mark.parametrize("fusion", FUSIONS)
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
        "kl": gaussian_kl(*q) + beta * gaussian_kl(*q, *p),
    }[strategy]
    for weight in (beta, torch.tensor(beta, dtype=torch.float64)):
        result = matching_loss(*rows, strategy=strategy, beta=weight, eps=1e-7, fusion=fusion)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("strategy", ["cpdm", "mddm", "kl"])
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
        ({"strategy": "gdom"}, ValueError, "strategy must be one of 'godm', 'cpdm', 'mddm', 'kl', got 'gdom'"),
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

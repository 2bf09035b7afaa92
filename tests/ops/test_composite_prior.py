"""composite_prior: the three readings of Eq. 11 against their definition and against the Jensen-Shannon divergence."""

import functools

import pytest
import torch
from op_testing import SHARED_CHECKS, OpCase

import dmrec_ext
from dmrec_ext import composite_prior, gaussian_kl, reference

INTERPOLATIONS = ("log_linear", "linear", "moment")


def _rows(size=(4, 9)):
    return [torch.randn(size, dtype=torch.float64) for _ in range(4)]


def _case(alpha, interpolation):
    operator = None if dmrec_ext.NATIVE_ABSENT else torch.ops.dmrec_ext.composite_prior.default
    options = {"alpha": alpha, "interpolation": interpolation}
    function, plain = (functools.partial(f, **options) for f in (composite_prior, reference.composite_prior))
    return OpCase(f"{interpolation} alpha {alpha}", function, plain, operator, 4, plain, (alpha, interpolation))


CASES = [_case(alpha, interpolation) for alpha in (0.5, 0.2) for interpolation in INTERPOLATIONS]


@pytest.mark.parametrize("check", SHARED_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_shared(case, check, native):
    check(case)


@pytest.mark.parametrize("alpha", [1e-12, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_extremes_are_never_nan(interpolation, alpha, native):
    values = torch.tensor([0.0, 1e-30, 1.0, 80.0, -80.0, 170.0, -170.0, 400.0, -400.0, 1e19, 3e38, -3e38])
    rows = [x.reshape(-1, 1).clone().requires_grad_() for x in torch.meshgrid(*[values] * 4, indexing="ij")]
    options = {"alpha": alpha, "interpolation": interpolation}
    result = composite_prior(*rows, **options)
    result.backward(torch.ones(len(result)))
    assert (result >= 0).all()
    finite = result < 1e37  # near the limit and beyond, terms of both signs overflow, and their difference is nothing
    assert finite.sum() > 100
    assert not any(x.grad[finite].isnan().any() for x in rows)
    mu, logvar = torch.randn(50, 77), 4 * torch.randn(50, 77)
    assert torch.equal(composite_prior(mu, logvar, mu, logvar, **options), torch.zeros(50))


@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_gradients_cancel_nowhere(interpolation, alpha, native):
    """Far apart, and where one Gaussian is all of c: float32 gradients against those in float64."""
    generator = torch.Generator().manual_seed(0)
    mu_q, mu_p = (1000 * torch.randn(4000, 1, generator=generator, device="cpu") for _ in range(2))
    logvar_q, logvar_p = (40 * torch.rand(4000, 1, generator=generator, device="cpu") - 38 for _ in range(2))
    device = torch.get_default_device()  # the same numbers on every device
    gradients = []
    for dtype in (torch.float32, torch.float64):
        rows = [x.to(device, dtype, copy=True).requires_grad_() for x in (mu_q, logvar_q, mu_p, logvar_p)]
        composite_prior(*rows, alpha=alpha, interpolation=interpolation).sum().backward()
        gradients.append([x.grad.double() for x in rows])
    for mine, right in zip(*gradients, strict=True):
        assert ((mine - right).abs() <= 5e-4 * (right.abs() + 1)).all()  # 1 - alpha is rounded


@pytest.mark.parametrize("interpolation", ["linear", "moment"])
def test_the_graph_of_the_gradient_is_finite_where_the_gradient_is(interpolation):
    for numbers in ((1.0, -110.0, 1.0, -110.0), (1.0, 95.0, 0.0, 94.0)):
        rows = [torch.tensor([[x]], requires_grad=True) for x in numbers]
        result = composite_prior(*rows, interpolation=interpolation).sum()
        plain = torch.autograd.grad(result, rows, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(result, rows, create_graph=True), plain)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_is_the_definition(alpha, interpolation):
    mu_q, logvar_q, mu_p, logvar_p = _rows()
    mu = alpha * mu_q + (1 - alpha) * mu_p
    variance = alpha * logvar_q.exp() + (1 - alpha) * logvar_p.exp()
    logvar = {
        "log_linear": alpha * logvar_q + (1 - alpha) * logvar_p,
        "linear": variance.log(),
        "moment": (variance + alpha * (1 - alpha) * (mu_q - mu_p) ** 2).log(),
    }[interpolation]
    expected = gaussian_kl(mu_p, logvar_p, mu, logvar) + gaussian_kl(mu_q, logvar_q, mu, logvar)
    result = composite_prior(mu_q, logvar_q, mu_p, logvar_p, alpha=alpha, interpolation=interpolation)
    torch.testing.assert_close(result, expected)


def test_bounds_by_the_jensen_shannon_divergence():
    """2 JSD <= D_CP(moment) <= D_CP(linear) and <= D_CP(log_linear): c of the least divergence is the mixture."""
    mu_q, logvar_q, mu_p, logvar_p = _rows((50, 1))
    by = {i: composite_prior(mu_q, logvar_q, mu_p, logvar_p, interpolation=i) for i in INTERPOLATIONS}
    grid = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    q, p = (torch.distributions.Normal(m, torch.exp(v / 2)) for m, v in ((mu_q, logvar_q), (mu_p, logvar_p)))
    log_q, log_p = q.log_prob(grid), p.log_prob(grid)
    log_m = torch.logaddexp(log_q, log_p) - torch.log(torch.tensor(2.0))
    twice_jsd = torch.trapezoid(log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m), grid)
    assert (twice_jsd <= by["moment"] + 1e-9).all()
    assert (by["moment"] <= by["linear"] + 1e-12).all()
    assert (by["moment"] <= by["log_linear"] + 1e-12).all()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_derivatives(interpolation):
    rows = [x.requires_grad_() for x in _rows((3, 4))]
    assert torch.autograd.gradcheck(lambda *x: composite_prior(*x, alpha=0.3, interpolation=interpolation), rows)


def test_bad_input():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"composite_prior: alpha must lie in \[0, 1\], got 1.5"):
        composite_prior(x, x, x, x, alpha=1.5)
    with pytest.raises(TypeError, match="alpha must be a number, got Tensor"):
        composite_prior(x, x, x, x, alpha=torch.tensor(0.5))
    with pytest.raises(ValueError, match="interpolation must be one of 'log_linear', 'linear', 'moment', got 'log'"):
        composite_prior(x, x, x, x, interpolation="log")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("place", range(4))
def test_nan_is_in_every_gradient_of_its_element(interpolation, place, native):
    rows = [torch.randn(3, 7) for _ in range(4)]
    rows[place][1, 2] = float("nan")
    rows = [x.requires_grad_() for x in rows]
    composite_prior(*rows, interpolation=interpolation).sum().backward()
    for x in rows:
        assert x.grad[1, 2].isnan()
        assert torch.isfinite(x.grad[[0, 2]]).all()

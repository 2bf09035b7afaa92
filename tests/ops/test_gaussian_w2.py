"""gaussian_w2 against the equation, its root at 0, its messages."""

import functools
import math

import pytest
import torch
from op_testing import SHARED_CHECKS, OpCase

import dmrec_ext
from dmrec_ext import gaussian_w2, reference

OPTIONS = {"root": {}, "root with eps": {"eps": 0.25}, "squared": {"squared": True}}


def _case(name):
    options = OPTIONS[name]
    plain = functools.partial(reference.gaussian_w2, **options)
    operator = None if dmrec_ext.NATIVE_ABSENT else torch.ops.dmrec_ext.gaussian_w2.default
    by_position = (options.get("squared", False), options.get("eps", 0.0))
    # a sum of squares, or its root: its own magnitude
    return OpCase(name, functools.partial(gaussian_w2, **options), plain, operator, 4, plain, by_position)


CASES = [_case(name) for name in OPTIONS]


@pytest.mark.parametrize("check", SHARED_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_shared(case, check, native):
    check(case)


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6])
def test_keeps_its_digits_where_the_sigmas_are_close(step):
    mu, logvar = torch.zeros(8, 64), torch.rand(8, 64)
    near = logvar + step * torch.rand(8, 64)
    exact = reference.gaussian_w2(*(x.double() for x in (mu, near, mu, logvar)))
    torch.testing.assert_close(gaussian_w2(mu, near, mu, logvar).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("squared", [True, False])
def test_extremes_are_finite_where_the_result_fits(squared, native):
    values = torch.tensor([0.0, 1e-30, 1.0, -1.0, 80.0, -80.0, 170.0, -170.0, 400.0, -400.0, 1e19, -1e19, 3e38, -3e38])
    rows = [x.reshape(-1, 1).clone().requires_grad_() for x in torch.meshgrid(*[values] * 4, indexing="ij")]
    result = gaussian_w2(*rows, squared=squared)
    result.backward(torch.ones(len(result)))
    mu_q, logvar_q, mu_p, logvar_p = (x.detach().double() for x in rows)
    gap = 0.5 * torch.maximum(logvar_q, logvar_p) + torch.log(-torch.expm1(-0.5 * (logvar_q - logvar_p).abs()))
    log_squared = torch.logaddexp(2 * (mu_q - mu_p).abs().log(), 2 * gap).squeeze(1)  # no overflow in logarithms
    log_exact = log_squared if squared else 0.5 * log_squared
    limit = math.log(torch.finfo(torch.float32).max)
    assert not result.isnan().any()
    assert not any(x.grad.isnan().any() for x in rows)
    fits = log_exact < limit - 1e-3
    torch.testing.assert_close(result[fits].double(), log_exact[fits].exp(), rtol=1e-4, atol=1e-37)
    assert (result[log_exact > limit + 1e-3] == math.inf).all()


def _rows(dtype=torch.float64, size=(4, 9)):
    return [torch.randn(size, dtype=torch.float64).to(dtype) for _ in range(4)]


def test_is_the_equation():
    mu_q, logvar_q, mu_p, logvar_p = _rows()
    literal = ((mu_p - mu_q) ** 2 + (torch.exp(logvar_p / 2) - torch.exp(logvar_q / 2)) ** 2).sum(1)
    torch.testing.assert_close(gaussian_w2(mu_q, logvar_q, mu_p, logvar_p, squared=True), literal)
    torch.testing.assert_close(gaussian_w2(mu_q, logvar_q, mu_p, logvar_p, eps=0.3), (literal + 0.3).sqrt())


@pytest.mark.parametrize("squared", [True, False])
def test_derivatives(squared):
    rows = [x.requires_grad_() for x in _rows()]
    assert torch.autograd.gradcheck(lambda *x: gaussian_w2(*x, squared=squared), rows)
    assert torch.autograd.gradgradcheck(lambda *x: gaussian_w2(*x, squared=squared), rows)


def test_gradient_is_zero_where_the_root_is():
    mu, logvar = (torch.randn(2, 5, requires_grad=True) for _ in range(2))
    distance = gaussian_w2(mu, logvar, mu.detach(), logvar.detach())
    distance.sum().backward()
    assert distance.tolist() == [0, 0]
    assert mu.grad.abs().sum() == 0
    assert logvar.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_inputs_are_computed_in_float32(dtype):
    rows = _rows(dtype)
    result = gaussian_w2(*rows)
    assert result.dtype == dtype
    torch.testing.assert_close(result, gaussian_w2(*[x.float() for x in rows]).to(dtype))


def test_bad_input():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"gaussian_w2: mu_p must be as wide as mu_q \(3, its last dimension\), got 2"):
        gaussian_w2(x, x, x[:, :2], x)
    with pytest.raises(ValueError, match="gaussian_w2: eps must be at least 0, got -1"):
        gaussian_w2(x, x, x, x, eps=-1)


@pytest.mark.parametrize("gap", [1.0, 1e-20, 1e-30, 1e-34, 1e-37, 2.5e-39, 1e-40, 1e-44])
@pytest.mark.parametrize("scale", [1.0, 65536.0, 1e30])
def test_gradients_of_small_distances_are_those_of_a_direction(gap, scale, native):
    """The quotient of difference and distance lies in [-1, 1], however small the two and large the gradient."""
    inputs = [torch.tensor([[x]], requires_grad=True) for x in (gap, 0.5, 0.0, 0.5)]
    (gaussian_w2(*inputs) * scale).sum().backward()
    found = [x.grad.item() for x in inputs]
    assert found == pytest.approx([scale, 0, -scale, 0], rel=2e-2 if gap < 1e-42 else 1e-5)
    loss = dmrec_ext.matching_loss(
        *(x.detach().requires_grad_() for x in inputs), strategy="godm", beta=0.5, fusion="collaborative"
    )
    assert torch.isfinite(loss).all()


def test_gradients_of_small_distances_between_deviations(native):
    inputs = [torch.tensor([[x]], requires_grad=True) for x in (0.0, 1e-6, 0.0, 0.0)]
    (gaussian_w2(*inputs) * 65536.0).sum().backward()
    assert inputs[1].grad.item() == pytest.approx(32768, rel=1e-3)  # d sigma / d logvar = sigma / 2
    small = [torch.tensor([[x]], requires_grad=True) for x in (0.0, -170.0, 0.0, -171.0)]
    gaussian_w2(*small).sum().backward()
    assert small[1].grad.item() == pytest.approx(0.5 * math.exp(-85.0), rel=1e-4)
    assert all(torch.isfinite(x.grad).all() for x in small)


@pytest.mark.parametrize("gap", [1.7e308, 1e200, 1e155, 1e154, 1.0, 1e-154, 1e-163, 1e-200, 1e-300, 5e-322])
@pytest.mark.parametrize("width", [1, 5, 40])
def test_float64_distances_whose_squares_leave_the_range(gap, width, native):
    """As in hypot: the sum is formed in another unit."""
    mu = torch.full((2, width), 0.0, dtype=torch.float64)
    mu[0, 0], mu[1, -1] = gap, -gap
    inputs = [mu.requires_grad_(), *(torch.zeros(2, width, dtype=torch.float64, requires_grad=True) for _ in range(3))]
    distance = gaussian_w2(*inputs)
    distance.sum().backward()
    assert distance.tolist() == pytest.approx([gap, gap], rel=1e-14, abs=1e-323)
    assert inputs[0].grad.sum(1).tolist() == pytest.approx([1, -1], rel=2e-2 if gap < 1e-310 else 1e-12)
    assert inputs[2].grad.sum(1).tolist() == pytest.approx([-1, 1], rel=2e-2 if gap < 1e-310 else 1e-12)
    loss = dmrec_ext.matching_loss(
        *(x.detach() for x in (inputs[1], inputs[1], inputs[0], inputs[1])),
        strategy="godm",
        beta=0.5,
        fusion="collaborative",
    )
    assert loss.tolist() == pytest.approx([0.5 * gap] * 2, rel=1e-14, abs=1e-323)


def test_float64_extremes_with_eps_and_squared(native):
    rows = [torch.tensor([[1e-200], [1e200]], dtype=torch.float64), *(torch.zeros(2, 1, dtype=torch.float64),) * 3]
    assert gaussian_w2(*rows, eps=1e-7).tolist() == pytest.approx([math.sqrt(1e-7), 1e200], rel=1e-14)
    assert gaussian_w2(*rows, squared=True).tolist() == [0.0, math.inf]
    deviations = [torch.zeros(2, 1, dtype=torch.float64) for _ in range(4)]
    deviations[1][0], deviations[3][1] = 2 * math.log(1e200), 2 * math.log(1e160)
    assert gaussian_w2(*deviations).tolist() == pytest.approx([1e200, 1e160], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_gradients_are_those_of_float32_rounded_once(dtype, native):
    """The distance is kept for the backward in float32: rounded, it would carry its error into the whole row."""
    rows = [x.requires_grad_() for x in _rows(dtype, (50, 33))]
    in_float32 = [x.detach().float().requires_grad_() for x in rows]
    gaussian_w2(*rows).sum().backward()
    gaussian_w2(*in_float32).sum().backward()
    for found, exact in zip(rows, in_float32, strict=True):
        rounded = exact.grad.to(dtype)
        unit = torch.finfo(dtype).eps * rounded.float().abs()
        assert ((found.grad.float() - exact.grad).abs() <= 0.51 * unit + torch.finfo(dtype).smallest_normal).all()


def test_of_distances_beyond_the_range_of_half(native):
    rows = [torch.tensor([[x] * 8], dtype=torch.float16, requires_grad=True) for x in (6e4, 0.0, -6e4, 0.0)]
    distance = gaussian_w2(*rows)
    (distance.float() * 0 + distance).sum().backward()
    assert distance.item() == math.inf  # 3.4e5: not a half
    assert rows[0].grad.tolist() == [pytest.approx([1 / math.sqrt(8)] * 8, rel=1e-3)]


@pytest.mark.parametrize("logvar", [200.0, 1000.0, 3e38])
@pytest.mark.parametrize("squared", [True, False])
def test_gradients_beyond_the_range_keep_their_sign(logvar, squared, native):
    """Where the value is infinite the gradients saturate: of the right sign, never NaN."""
    inputs = [torch.tensor([[x]], requires_grad=True) for x in (0.0, logvar, 0.0, 0.0)]
    distance = gaussian_w2(*inputs, squared=squared)
    distance.sum().backward()
    assert distance.item() == math.inf
    assert inputs[1].grad.item() >= 0 or not squared
    assert inputs[3].grad.item() <= 0
    assert not any(x.grad.isnan().any() for x in inputs)

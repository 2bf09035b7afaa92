"""gaussian_kl: the shared checks for both of its forms, its extremes and its messages."""

import math

import pytest
import torch
from op_testing import SHARED_CHECKS, OpCase

import dmrec_ext
from dmrec_ext import gaussian_kl, reference


def _magnitude(mu_q, logvar_q, mu_p=None, logvar_p=None):
    mu, d = (mu_q, logvar_q) if mu_p is None else (mu_q - mu_p, logvar_q - logvar_p)
    precision = 1.0 if logvar_p is None else torch.exp(-logvar_p)
    # e^d - 1 - d is a term of its own: computed without cancellation, it must be right relative to itself
    return 0.5 * (torch.expm1(d) - d + mu.square() * precision).abs().sum(-1)


operator = torch.ops.dmrec_ext.gaussian_kl.default if not dmrec_ext.NATIVE_ABSENT else None
CASES = [
    OpCase("two Gaussians", gaussian_kl, reference.gaussian_kl, operator, 4, _magnitude),
    OpCase("standard normal", gaussian_kl, reference.gaussian_kl, operator, 2, _magnitude),
]


@pytest.mark.parametrize("check", SHARED_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_shared(case, check, native):
    check(case)


def test_reference_is_the_equation():
    mu_q, logvar_q, mu_p, logvar_p = (torch.randn(4, 9, dtype=torch.float64) for _ in range(4))
    literal = 0.5 * (logvar_p - logvar_q + (logvar_q.exp() + (mu_q - mu_p) ** 2) * torch.exp(-logvar_p) - 1).sum(1)
    torch.testing.assert_close(reference.gaussian_kl(mu_q, logvar_q, mu_p, logvar_p), literal)
    zero = torch.zeros_like(mu_q)
    torch.testing.assert_close(reference.gaussian_kl(mu_q, logvar_q), reference.gaussian_kl(mu_q, logvar_q, zero, zero))
    distribution = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(
        distribution(mu_q, torch.exp(logvar_q / 2)), distribution(mu_p, torch.exp(logvar_p / 2))
    )
    torch.testing.assert_close(reference.gaussian_kl(mu_q, logvar_q, mu_p, logvar_p), theirs.sum(1))


def test_is_zero_at_equality_and_never_negative(native):
    mu, logvar = torch.randn(50, 77), 4 * torch.randn(50, 77)
    assert torch.equal(gaussian_kl(mu, logvar, mu, logvar), torch.zeros(50))
    for exponent in range(-30, 3):
        near = logvar + 2.0**exponent * torch.randn(50, 77)
        assert (gaussian_kl(mu, near, mu, logvar) >= 0).all()


@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-4])
def test_keeps_its_digits_near_equality(step, native):
    """Where the textbook formula in float32 has lost them all."""
    mu, logvar = torch.zeros(8, 64), torch.rand(8, 64)
    near = logvar + step * torch.rand(8, 64)
    exact = reference.gaussian_kl(*(x.double() for x in (mu, near, mu, logvar)))
    torch.testing.assert_close(gaussian_kl(mu, near, mu, logvar).double(), exact, rtol=1e-5, atol=0)
    naive = 0.5 * (logvar - near + near.exp() * torch.exp(-logvar) - 1).sum(1)
    if step < 1e-3:
        assert ((naive - exact).abs() > 1e-2 * exact).any()


EXTREMES = [
    0.0,
    1e-30,
    -1e-30,
    1.0,
    -1.0,
    80.0,
    -80.0,
    88.5,
    -88.5,
    177.0,
    -177.0,
    400.0,
    -400.0,
    1e19,
    -1e19,
    3e38,
    -3e38,
]


def test_extremes_are_finite_where_the_result_fits(native):
    """Every combination of extreme float32 inputs: the float64 value where it fits, +inf beyond, never NaN."""
    values = torch.tensor(EXTREMES)
    rows = [x.reshape(-1, 1) for x in torch.meshgrid(values, values, values, values, indexing="ij")]
    result = gaussian_kl(*rows)
    mu_q, logvar_q, mu_p, logvar_p = (x.double() for x in rows)
    # float64 overflows here too: take the factor of the mean difference in logarithms
    log_distance = 2 * (mu_q - mu_p).abs().log() - logvar_p
    exact = 0.5 * (torch.expm1(logvar_q - logvar_p) - (logvar_q - logvar_p) + log_distance.exp()).sum(1)
    limit = torch.finfo(torch.float32).max
    assert not result.isnan().any()
    assert (result >= 0).all()
    fits = exact <= limit * 0.999
    torch.testing.assert_close(result[fits].double(), exact[fits], rtol=1e-5, atol=1e-37)
    assert (result[exact > limit * 1.001] == math.inf).all()


def test_gradients_of_extremes_are_never_nan(native):
    values = torch.tensor(EXTREMES)
    rows = [x.reshape(-1, 1).clone().requires_grad_() for x in torch.meshgrid(*[values] * 4, indexing="ij")]
    gaussian_kl(*rows).backward(torch.ones(len(rows[0])))
    assert not any(x.grad.isnan().any() for x in rows)


def test_gradients_of_extremes_are_those_of_float64_where_they_fit(native):
    values = torch.tensor([0.0, 1e-30, 1.0, -80.0, 80.0, 150.0, 1e15])
    rows = [x.reshape(-1, 1) for x in torch.meshgrid(*[values] * 4, indexing="ij")]
    mine = [x.clone().requires_grad_() for x in rows]
    exact = [x.double().requires_grad_() for x in rows]
    gaussian_kl(*mine).sum().backward()
    reference.gaussian_kl(*exact).sum().backward()
    for x, y in zip(mine, exact, strict=True):
        fits = y.grad.abs() < 3e38
        torch.testing.assert_close(x.grad[fits].double(), y.grad[fits], rtol=1e-5, atol=1e-37)


def test_infinite_inputs_do_not_poison_other_rows(native):
    rows = [torch.zeros(3, 40) for _ in range(4)]
    rows[0][1, 7] = math.inf
    assert gaussian_kl(*rows).tolist() == [0.0, math.inf, 0.0]


BAD = [
    (lambda x: (x.tolist(), x), TypeError, "gaussian_kl: mu_q must be a tensor, got list"),
    (lambda x: (x.long(), x), TypeError, "mu_q must be float32, float64, float16 or bfloat16, got torch.int64"),
    (lambda x: (x.to_sparse(), x), TypeError, "mu_q must be dense .torch.strided., got torch.sparse_coo"),
    (lambda x: (x[0, 0], x), ValueError, r"mu_q must have 1 dimension or more, got 0"),
    (lambda x: (x, x[:, :1]), ValueError, r"logvar_q must be as wide as mu_q \(3, its last dimension\), got 1"),
    (lambda x: (x, x[[0, 1, 0]]), ValueError, r"logvar_q must have a shape that broadcasts with \(2, 3\), got"),
    (lambda x: (x, x.double()), TypeError, "logvar_q must have the dtype of mu_q .torch.float32., got torch.float64"),
    (lambda x: (x, x.to("meta")), ValueError, r"logvar_q must be on the device of mu_q \((cpu|cuda)[:0]*\), got meta"),
    (lambda x: (x, x, x), ValueError, "mu_p and logvar_p must be given together or both left out, got only mu_p"),
    (lambda x: (x, x, None, x), ValueError, "got only logvar_p"),
    (lambda x: (x, x, x, x.half()), TypeError, "logvar_p must have the dtype of mu_q"),
]


@pytest.mark.parametrize("function", [gaussian_kl, reference.gaussian_kl], ids=["public", "reference"])
@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(function, make, error, message):
    with pytest.raises(error, match=message):
        function(*make(torch.zeros(2, 3)))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: (x, x[:1]),
        lambda x: (x, x.double()),
        lambda x: (x[0], x[0]),
        lambda x: (x.long(), x.long()),
        lambda x: (x, x, x),
    ],
    ids=range(5),
)
def test_bad_input_to_the_raw_operator_is_an_error_too(make, native):
    with pytest.raises(RuntimeError, match="gaussian_kl: "):
        torch.ops.dmrec_ext.gaussian_kl(*make(torch.zeros(2, 3)))


def test_bad_gradient_to_the_raw_operator_is_an_error_too(native):
    x = torch.zeros(2, 3)
    for grad in (torch.ones(3), torch.ones(2, 1), torch.ones(2).double()):
        with pytest.raises(RuntimeError, match="gaussian_kl: the gradient must"):
            torch.ops.dmrec_ext._gaussian_kl_backward(grad, x, x, None, None, 3)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 256), (torch.bfloat16, 512), (torch.float32, 264)])
def test_gradients_that_bypass_the_caches_have_the_same_bits(dtype, width, native):
    """From 8 MiB per gradient on, whole lines are streamed; a batch cut in two stays below."""
    inputs = [torch.randn(8200, width).to(dtype).requires_grad_() for _ in range(4)]
    grad = torch.linspace(-1, 2, 8200).to(dtype)
    whole = torch.autograd.grad(gaussian_kl(*inputs), inputs, grad)
    for rows in (slice(0, 4100), slice(4100, None)):
        part = [x[rows].detach().requires_grad_() for x in inputs]
        for mine, right in zip(torch.autograd.grad(gaussian_kl(*part), part, grad[rows]), whole, strict=True):
            assert torch.equal(mine, right[rows])
    one = torch.autograd.grad(gaussian_kl(*inputs), inputs[2], grad)[0]
    assert torch.equal(one, whole[2])

"""gaussian_w2 against the equation, its root at 0, its messages."""

import pytest
import torch

from dmrec_ext import gaussian_w2


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
    with pytest.raises(ValueError, match=r"gaussian_w2: mu_p must have the shape of mu_q \(2, 3\), got \(2, 2\)"):
        gaussian_w2(x, x, x[:, :2], x)
    with pytest.raises(ValueError, match="gaussian_w2: eps must be at least 0, got -1"):
        gaussian_w2(x, x, x, x, eps=-1)

"""multinomial_nll against the dense softmax."""

import pytest
import torch

from dmrec_ext import Csr, multinomial_nll


def _case(dtype=torch.float64, b=5, n=11, h=4):
    hidden, weight, bias = torch.randn(b, h), torch.randn(n, h), torch.randn(n)
    dense = (torch.rand(b, n) < 0.4) * torch.rand(b, n)
    dense[2] = 0
    return *(t.to(dtype) for t in (hidden, weight, bias)), dense.to(dtype)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_is_the_dense_loss(reduction):
    hidden, weight, bias, dense = _case()
    rows = -(dense * torch.log_softmax(hidden @ weight.T + bias, 1)).sum(1)
    expected = {"none": rows, "mean": rows.mean(), "sum": rows.sum()}[reduction]
    result = multinomial_nll(hidden, weight, Csr.from_torch(dense), bias, reduction=reduction)
    torch.testing.assert_close(result, expected)


def test_a_user_without_targets_costs_nothing():
    hidden, weight, bias, dense = _case()
    assert multinomial_nll(hidden, weight, Csr.from_torch(dense), bias, reduction="none")[2] == 0


def test_values_of_another_dtype_do_not_change_that_of_the_loss():
    hidden, weight, bias, dense = _case(torch.float32)
    loss = multinomial_nll(hidden, weight, Csr.from_torch(dense.double()), bias)
    assert loss.dtype == torch.float32


def test_gradients():
    hidden, weight, bias, dense = _case()
    x = Csr.from_torch(dense)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(lambda h, w, b: multinomial_nll(h, w, x, b), leaves)


def test_large_logits_stay_finite():
    x = Csr(torch.tensor([0, 1]), torch.tensor([1]), None, 2)
    loss = multinomial_nll(torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0]]), x)
    torch.testing.assert_close(loss, torch.tensor(2e4))


def test_under_autocast_the_softmax_is_float32():
    hidden, weight, bias, dense = _case(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = multinomial_nll(hidden.bfloat16(), weight, Csr.from_torch(dense), bias)
    assert loss.dtype == torch.float32


def test_bad_input():
    hidden, weight, bias, dense = _case()
    x = Csr.from_torch(dense)
    with pytest.raises(ValueError, match=r"multinomial_nll: weight must have the width of hidden \(4\), got 3"):
        multinomial_nll(hidden, weight[:, :3], x)
    with pytest.raises(ValueError, match="x must have 5 rows, got 4"):
        multinomial_nll(hidden, weight, x.rows(torch.arange(4)))
    with pytest.raises(ValueError, match=r"bias must have one value per row of weight \(11\), got 3"):
        multinomial_nll(hidden, weight, x, bias[:3])
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', 'none', got 'avg'"):
        multinomial_nll(hidden, weight, x, reduction="avg")

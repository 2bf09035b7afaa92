"""csr_aggregate against the dense product, gradients included."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dmrec_ext import Csr, csr_aggregate


def _case(rows, cols, width, values, dtype=torch.float64):
    matrix = sp.random(rows, cols, 0.3, format="csr", random_state=0, dtype=np.float64)
    if not values:
        matrix.data[:] = 1
    x = Csr.from_scipy(matrix, dtype=dtype)
    return x, torch.from_numpy(matrix.toarray()).to(dtype), torch.randn(cols, width, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("size", [(0, 5, 3), (6, 0, 3), (6, 5, 0), (1, 1, 1), (41, 17, 31)])
def test_is_the_dense_product(size, values):
    x, dense_x, weight = _case(*size, values)
    torch.testing.assert_close(csr_aggregate(x, weight), dense_x @ weight)
    for bias in (torch.randn(size[2], dtype=torch.float64), torch.randn(size[0], size[2], dtype=torch.float64)):
        torch.testing.assert_close(csr_aggregate(x, weight, bias), dense_x @ weight + bias)


def test_gradients():
    x, _, weight = _case(6, 5, 3, True)
    leaves = [x.values.requires_grad_(), weight.requires_grad_(), torch.randn(6, 3).double().requires_grad_()]
    assert torch.autograd.gradcheck(lambda v, w, b: csr_aggregate(x._replace(values=v), w, b), leaves)


@pytest.mark.parametrize("size", [(0, 5, 3), (6, 0, 3), (6, 5, 0), (6, 5, 3)])
def test_nothing_to_sum_is_differentiable(size):
    x = Csr.from_scipy(sp.csr_matrix(size[:2]))
    weight = torch.randn(size[1:], requires_grad=True)
    result = csr_aggregate(x, weight)
    assert result.shape == (size[0], size[2])
    result.sum().backward()
    assert weight.grad.abs().sum() == 0


def test_a_cached_transpose_changes_nothing():
    x, dense_x, weight = _case(6, 5, 3, True)
    torch.testing.assert_close(csr_aggregate(x, weight, transpose=x.transpose()), dense_x @ weight)


def test_empty_rows_give_the_bias():
    x = Csr(torch.tensor([0, 0, 1]), torch.tensor([1]), None, 2)
    assert csr_aggregate(x, torch.eye(2), torch.ones(2)).tolist() == [[1, 1], [1, 2]]


def test_bad_input():
    x, _, weight = _case(6, 5, 3, True)
    with pytest.raises(ValueError, match="csr_aggregate: x must have 4 columns, got 5"):
        csr_aggregate(x, weight[:4])
    with pytest.raises(TypeError, match=r"x.values must have the dtype of dense .torch.float32., got torch.float64"):
        csr_aggregate(x, weight.float())
    with pytest.raises(ValueError, match=r"bias must have the shape \(3,\) or \(6, 3\), got \(5, 3\)"):
        csr_aggregate(x, weight, weight)
    with pytest.raises(ValueError, match="transpose must have 5 rows, got 6"):
        csr_aggregate(x, weight, transpose=x)

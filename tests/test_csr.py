"""Csr: conversions, row selection, transposition."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dmrec_ext import Csr
from dmrec_ext._checks import check_csr


def _random(rows=9, cols=7, density=0.3, values=True, seed=0):
    matrix = sp.random(rows, cols, density, format="csr", dtype=np.float32, random_state=seed)
    if not values:
        matrix.data[:] = 1
    return matrix


@pytest.mark.parametrize("values", [True, False])
def test_round_trips(values):
    matrix = _random(values=values)
    x = Csr.from_scipy(matrix)
    assert (x.values is not None) == values
    np.testing.assert_array_equal(x.to_dense().numpy(), matrix.toarray())
    again = Csr.from_torch(torch.from_numpy(matrix.toarray()))
    np.testing.assert_array_equal(again.to_dense().numpy(), matrix.toarray())
    np.testing.assert_array_equal(x.transpose().to_dense().numpy(), matrix.toarray().T)
    assert x.n_rows == 9
    assert x.nnz == matrix.nnz
    for y in (x, again, x.transpose(), x.rows(torch.tensor([3, 3, 0]))):
        check_csr("test", "x", y)


def test_from_scipy_sums_duplicates_and_leaves_its_input_alone():
    matrix = sp.csr_matrix((np.ones(3, np.float32), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 4))
    x = Csr.from_scipy(matrix)
    assert x.to_dense().tolist() == [[1, 0, 2, 0]]
    assert matrix.indices.tolist() == [2, 0, 2]


@pytest.mark.parametrize("index", [[], [0], [8, 0, 0, 5]])
@pytest.mark.parametrize("values", [True, False])
def test_rows(index, values):
    matrix = _random(values=values)
    x = Csr.from_scipy(matrix).rows(torch.tensor(index, dtype=torch.int64))
    np.testing.assert_array_equal(x.to_dense().numpy(), matrix.toarray()[index])


def test_rows_from_the_end():
    x = Csr.from_scipy(_random())
    assert torch.equal(x.rows(torch.tensor([-2, -1])).to_dense(), x.to_dense()[-2:])


def test_empty_matrices():
    x = Csr.from_scipy(sp.csr_matrix((3, 0)))
    assert x.to_dense().shape == (3, 0)
    assert x.transpose().to_dense().shape == (0, 3)
    assert Csr.from_scipy(sp.csr_matrix((0, 4))).n_rows == 0


def test_transposing_twice_changes_nothing():
    x = Csr.from_scipy(_random(40, 30))
    twice = x.transpose().transpose()
    assert all(map(torch.equal, x[:3], twice[:3]))


def _csr(crow, col, values=None, n_cols=4):
    return Csr(torch.tensor(crow), torch.tensor(col, dtype=torch.int64), values, n_cols)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 2), "x must be a dmrec_ext.Csr, got Tensor"),
        (
            _csr([0, 1], [0])._replace(col=torch.zeros(1)),
            r"x.col must be an int64 tensor of one dimension, got torch.f",
        ),
        (_csr([0, 1], [0])._replace(crow=[0, 1]), "x.crow must be an int64 tensor of one dimension, got list"),
        (_csr([0], [])._replace(crow=torch.zeros(0, dtype=torch.int64)), "x.crow must have one entry more than rows"),
        (_csr([0, 2], [0]), r"x.crow must rise from 0 to 1"),
        (_csr([1, 1], [0]), r"x.crow must rise from 0 to 1"),
        (_csr([0, 2, 1], [0]), r"x.crow must rise from 0 to 1"),
        (_csr([0, 1], [4]), r"x.col must lie in \[0, 4\), got values from 4 to 4"),
        (_csr([0, 1], [-1]), r"x.col must lie in \[0, 4\), got values from -1 to -1"),
        (_csr([0, 2], [2, 1]), "x.col must rise strictly within each row, got columns out of order"),
        (_csr([0, 2], [1, 1]), "x.col must rise strictly within each row"),
        (_csr([0, 1], [1], torch.ones(2)), r"x.values must have the shape of col \(1,\), got \(2,\)"),
    ],
)
def test_malformed(x, message):
    with pytest.raises((ValueError, TypeError), match=f"op: {message}"):
        check_csr("op", "x", x)


def test_parts_must_match():
    x = _csr([0, 1], [1])
    for values in ([1.0], torch.ones(1, dtype=torch.int64)):
        with pytest.raises(TypeError, match="op: x.values must be"):
            check_csr("op", "x", x._replace(values=values))
    with pytest.raises(TypeError, match="op: x.n_cols must be an integer of at least 0, got 4.0"):
        check_csr("op", "x", x._replace(n_cols=4.0))
    with pytest.raises(ValueError, match="op: x.crow must be on the device of col .cpu., got meta"):
        check_csr("op", "x", x._replace(crow=x.crow.to("meta")))
    with pytest.raises(ValueError, match="op: x must be on the device of the other arguments .meta., got cpu"):
        check_csr("op", "x", x, device=torch.device("meta"))


def test_well_formed_edge_cases():
    for x in (_csr([0, 0, 2, 2, 3], [1, 3, 0]), _csr([0, 0], []), _csr([0], [])):
        check_csr("op", "x", x)

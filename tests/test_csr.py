"""Csr: conversions, row selection, transposition."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dmrec_ext import Csr, csr_aggregate
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


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64, torch.bfloat16])
def test_to_scipy_is_a_copy(dtype):
    x = Csr.from_scipy(_random(values=dtype is not None), dtype=dtype or torch.float32)
    matrix = x.to_scipy()
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.toarray(), x.to_dense().to(torch.float64).numpy())
    before = x.to_dense()
    matrix.data[:] = 7
    matrix.indices[:] = 0
    matrix.indptr[:] = 0
    assert torch.equal(x.to_dense(), before)


def test_to_scipy_of_values_that_want_a_gradient_and_of_empty_matrices():
    x = Csr.from_scipy(_random())
    x.values.requires_grad_()
    np.testing.assert_array_equal(x.to_scipy().toarray(), x.to_dense().detach().numpy())
    assert Csr.from_scipy(sp.csr_matrix((0, 4))).to_scipy().shape == (0, 4)
    assert Csr.from_scipy(sp.csr_matrix((3, 0))).to_scipy().shape == (3, 0)


@pytest.mark.parametrize("values", [True, False])
def test_to_moves_every_tensor(values):
    x = Csr.from_scipy(_random(values=values))
    moved = x.to("meta")
    assert isinstance(moved, Csr)
    assert x.device == torch.device("cpu")
    assert moved.device == torch.device("meta")
    assert moved.n_cols == x.n_cols
    assert moved.n_rows == x.n_rows
    assert moved.nnz == x.nnz
    assert all(tensor.is_meta for tensor in moved[:3] if tensor is not None)
    assert (moved.values is None) == (not values)
    assert all(a is b for a, b in zip(x.to(torch.device("cpu"), non_blocking=True), x, strict=True))


def test_to_hands_on_non_blocking(monkeypatch):
    x, seen = Csr.from_scipy(_random()), []
    original = torch.Tensor.to

    def to(tensor, *args, **options):
        seen.append(options)
        return original(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    x.to("meta", non_blocking=True)
    assert seen == [{"non_blocking": True}] * 3


def test_pin_memory_pins_every_tensor(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)  # no GPU, nothing to pin for
    x = Csr.from_scipy(_random())
    assert all(torch.equal(a, b + 1) for a, b in zip(x.pin_memory()[:3], x[:3], strict=True))
    assert x.pin_memory().n_cols == x.n_cols
    assert x._replace(values=None).pin_memory().values is None


@pytest.mark.skipif(torch.accelerator.is_available(), reason="is about a machine without an accelerator")
def test_pin_memory_without_a_gpu():
    with pytest.raises(RuntimeError, match="accelerator"):
        Csr.from_scipy(_random()).pin_memory()


def test_rows_of_a_known_number_of_entries():
    x, index = Csr.from_scipy(_random()), torch.tensor([3, 8, 3])
    some = x.rows(index)
    assert all(map(torch.equal, x.rows(index, nnz=some.nnz)[:3], some[:3]))
    for wrong in (some.nnz - 1, some.nnz + 1):
        with pytest.raises(RuntimeError, match="size"):
            x.rows(index, nnz=wrong)


def _without_contents():
    """On the meta device nothing can be read: what waits for a device fails there."""
    x = Csr.from_scipy(_random()).to("meta")
    return x, torch.empty(3, dtype=torch.int64, device="meta")


def test_a_known_number_of_entries_spares_reading_it():
    x, index = _without_contents()
    some = x.rows(index, nnz=5)
    assert some.device == torch.device("meta")
    assert (some.n_rows, some.n_cols, some.nnz) == (3, 7, 5)
    assert some.row_of_entry().shape == (5,)
    transposed = some.transpose()
    assert (transposed.n_rows, transposed.n_cols, transposed.nnz) == (7, 3, 5)
    with pytest.raises(RuntimeError, match="item"):
        x.rows(index)


def test_a_known_number_of_entries_under_fake_tensors():
    with FakeTensorMode() as mode:
        x = Csr(torch.empty(10, dtype=torch.int64), torch.empty(20, dtype=torch.int64), torch.empty(20), 7)
        some = x.rows(torch.empty(3, dtype=torch.int64), nnz=5)
        assert some.row_of_entry().shape == (5,)
        assert some.transpose().n_rows == 7
        with pytest.raises(DataDependentOutputException):
            x.rows(torch.empty(3, dtype=torch.int64))
    assert some.values.fake_mode is mode


def test_narrow_counts_are_added_up_in_float32():
    coo = sp.coo_matrix((np.array([100, 100, 1], dtype=np.int8), ([0, 0, 1], [1, 1, 0])), shape=(2, 3))
    assert Csr.from_scipy(coo).to_dense().tolist() == [[0, 200, 0], [1, 0, 0]]
    assert Csr.from_scipy(coo, dtype=torch.float64).values.dtype == torch.float64
    for kind in (bool, np.uint8, np.int64, np.float64):
        assert Csr.from_scipy(sp.csr_matrix(np.eye(3, dtype=kind))).values is None


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.uint8, torch.float64])
def test_from_torch_of_any_type(kind):
    dense = torch.tensor([[0, 1, 0], [1, 0, 1]]).to(kind)
    x = Csr.from_torch(dense)
    assert x.values.is_floating_point()
    assert x.to_dense().tolist() == dense.to(torch.float64).tolist()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: Csr.from_scipy(torch.eye(3)), TypeError, "must be a scipy sparse matrix, got Tensor; Csr.from_torch"),
        (lambda: Csr.from_scipy(np.eye(3)), TypeError, "must be a scipy sparse matrix, got ndarray"),
        (lambda: Csr.from_torch(torch.ones(3)), ValueError, r"must have 2 dimensions, got \(3,\)"),
        (lambda: Csr.from_torch(torch.ones(1, 2, 3)), ValueError, r"must have 2 dimensions, got \(1, 2, 3\)"),
        (lambda: Csr.from_torch([[1]]), TypeError, "must be a tensor, got list"),
        (lambda: Csr.from_torch(torch.eye(3)).rows(torch.tensor(1)), ValueError, r"must have 1 dimension, got \(\)"),
        (lambda: Csr.from_torch(torch.eye(3)).rows(torch.tensor([[1]])), ValueError, r"1 dimension, got \(1, 1\)"),
        (lambda: Csr.from_torch(torch.eye(3)).rows([0]), TypeError, "index must be a tensor of int64, got list"),
        (lambda: Csr.from_torch(torch.eye(3)).rows(torch.ones(3)), TypeError, "of int64, got torch.float32"),
    ],
)
def test_bad_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_it_is_pickled_and_has_a_shape():
    x = Csr.from_torch(torch.tensor([[0, 2.0, 0], [1, 0, 3]]))
    assert x.shape == (2, 3)
    for again in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert isinstance(again, Csr)
        assert again.shape == x.shape
        assert torch.equal(again.to_dense(), x.to_dense())


def test_changes_in_place_are_seen_although_a_matrix_is_checked_once():
    x, dense = _csr([0, 2, 3], [0, 2, 1], n_cols=3), torch.randn(3, 4)
    before = csr_aggregate(x, dense)
    assert torch.equal(csr_aggregate(x, dense), before)
    x.col[1] = 0
    with pytest.raises(ValueError, match=r"x\.col must rise strictly within each row"):
        csr_aggregate(x, dense)
    x.col[1] = 2
    assert torch.equal(csr_aggregate(x, dense), before)
    with pytest.raises(ValueError, match=r"x\.crow must rise from 0 to 3"):  # the same columns, other offsets
        csr_aggregate(x._replace(crow=torch.tensor([0, 3, 4])), dense)
    with pytest.raises(ValueError, match=r"lie in \[0, 2\)"):
        csr_aggregate(x._replace(n_cols=2), dense[:2])


@pytest.mark.usefixtures("native")
@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 5), max_size=4), min_size=1, max_size=5))
def test_the_native_check_of_order_is_that_of_the_definition(rows):
    crow = torch.tensor([0, *itertools.accumulate(map(len, rows))])
    col = torch.tensor([column for row in rows for column in row], dtype=torch.int64)
    right = all(0 <= column < 5 for column in col) and all(a < b for row in rows for a, b in itertools.pairwise(row))
    assert torch.ops.dmrec_ext._csr_is_valid(crow, col, 5) == right


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 6), st.integers(0, 9), st.integers(1, 11), st.booleans(), st.integers(0, 99))
def test_parts_of_a_split_are_ranges_of_columns(rows, cols, size, values, seed):
    matrix = _random(rows, cols, 0.4, values, seed) if rows and cols else sp.csr_matrix((rows, cols), dtype=np.float32)
    parts = Csr.from_scipy(matrix).split(size)
    assert len(parts) == -(-cols // size)
    for i, part in enumerate(parts):
        expected = matrix[:, i * size : (i + 1) * size]
        assert part.shape == expected.shape
        check_csr("op", "part", part)
        np.testing.assert_array_equal(part.to_dense().numpy(), expected.toarray())


def test_values_of_parts_are_differentiable():
    x = Csr.from_scipy(_random())
    values = x.values.requires_grad_()
    torch.stack([part.values.sum() * (i + 1) for i, part in enumerate(x.split(3))]).sum().backward()
    assert torch.equal(values.grad, (x.col // 3 + 1).float())


def test_bad_sizes_of_parts():
    for size, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="Csr.split: size must be"):
            _csr([0, 1], [1]).split(size)

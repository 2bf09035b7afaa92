"""csr_dot against the dense product in float64, gradients included."""

import pytest
import torch

from dmrec_ext import Csr, csr_dot, reference, use_reference
from tests.op_testing import TOLERANCES

WIDTHS = [1, 15, 16, 33, 64, 128, 129, 401]


def _case(n_rows, n_cols, width, counts, dtype=torch.float64, values=False, seed=0):
    """Rows with these numbers of entries; columns repeat and come in any order."""
    draw = torch.Generator().manual_seed(seed)
    counts = torch.tensor([counts[i % len(counts)] for i in range(n_rows)], dtype=torch.int64)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    col = torch.randint(max(n_cols, 1), (int(crow[-1]),), generator=draw)
    of_entries = torch.randn(len(col), generator=draw, dtype=torch.float64).to(dtype) if values else None
    dense = (torch.randn(n, width, generator=draw, dtype=torch.float64).to(dtype) for n in (n_rows, n_cols))
    return Csr(crow, col, of_entries, n_cols), *dense


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("size", [(0, 5, 3), (6, 5, 0), (1, 1, 1), *((23, 17, width) for width in WIDTHS)])
def test_is_the_dense_product_at_the_entries(size, values, dtype, tolerance):
    x, rows, dense = _case(*size, (0, 1, 3, 40), dtype, values)
    leaves = [t.detach().requires_grad_() for t in (rows, dense, x.values) if t is not None]
    found = csr_dot(x._replace(values=leaves[2] if values else None), *leaves[:2])
    assert found.dtype == dtype
    assert found.shape == (x.nnz,)
    at, col = x.row_of_entry(), x.col
    r, d = rows.double(), dense.double()
    v = torch.ones(x.nnz, dtype=torch.float64) if x.values is None else x.values.double()
    exact, scale = (r[at] * d[col]).sum(1), (r[at].abs() * d[col].abs()).sum(1)
    assert ((found.double() - v * exact).abs() <= 2 * tolerance * v.abs() * scale).all()
    grad = torch.linspace(-1.5, 2.5, x.nnz).to(dtype)
    gradients = [each.double() for each in torch.autograd.grad(found, leaves, grad)]
    g = grad.double() * v
    for gradient, to, of, source in ((gradients[0], at, col, d), (gradients[1], col, at, r)):
        right = torch.zeros_like(gradient).index_add(0, to, g[:, None] * source[of])
        bound = torch.zeros_like(gradient).index_add(0, to, (g[:, None] * source[of]).abs())
        assert ((gradient - right).abs() <= 4 * tolerance * bound).all()
    if values:
        assert ((gradients[2] - grad.double() * exact).abs() <= 2 * tolerance * grad.double().abs() * scale).all()


@pytest.mark.parametrize("values", [True, False])
def test_derivatives(values):
    x, rows, dense = _case(5, 4, 3, (0, 2, 5), values=values)
    leaves = [t.requires_grad_() for t in (rows, dense, x.values) if t is not None]

    def product(rows, dense, values=None):
        return csr_dot(x._replace(values=values), rows, dense)

    assert torch.autograd.gradcheck(product, leaves)
    assert torch.autograd.gradgradcheck(product, leaves)


def test_is_the_reference():
    x, rows, dense = _case(30, 20, 64, (7, 0, 2), torch.float32, values=True)
    torch.testing.assert_close(csr_dot(x, rows, dense), reference.csr_dot(x, rows, dense))
    with use_reference():
        torch.testing.assert_close(csr_dot(x, rows, dense), reference.csr_dot(x, rows, dense), rtol=0, atol=0)


def test_is_registered_and_compiles():
    x, rows, dense = _case(6, 5, 4, (2, 0, 3), torch.float32)
    torch.library.opcheck(
        torch.ops.dmrec_ext._csr_dot.default, (x.crow, x.col, rows.requires_grad_(), dense.requires_grad_())
    )
    compiled = torch.compile(lambda r, d: csr_dot(x, r, d).square(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rows, dense), csr_dot(x, rows, dense).square())


def test_under_torch_func():
    x, rows, dense = _case(4, 5, 3, (2, 1))
    found = torch.func.grad(lambda r: csr_dot(x, r, dense).sum())(rows)
    leaf = rows.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(csr_dot(x, leaf, dense).sum(), leaf)[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": torch.ones(3, 4)}, ValueError, "csr_dot: rows must be as wide as dense"),
        ({"rows": torch.ones(2, 3)}, ValueError, "csr_dot: x must have 2 rows"),
        ({"rows": torch.ones(3, 3, dtype=torch.float64)}, TypeError, "csr_dot: rows must have the dtype of dense"),
        ({"dense": torch.ones(3)}, ValueError, "csr_dot: dense must have 2 dimensions"),
        ({"x": torch.ones(3, 4)}, TypeError, "csr_dot: x must be"),
        ({"dense": torch.ones(2, 3)}, ValueError, "csr_dot: x must have 2 columns"),
    ],
)
def test_what_is_refused(change, error, message):
    x = Csr(torch.tensor([0, 1, 1, 2]), torch.tensor([3, 0]), None, 4)
    given = {"x": x, "rows": torch.ones(3, 3), "dense": torch.ones(4, 3), **change}
    with pytest.raises(error, match=message):
        csr_dot(**given)
    for path in (csr_dot, reference.csr_dot):
        with pytest.raises(error):
            path(**given)

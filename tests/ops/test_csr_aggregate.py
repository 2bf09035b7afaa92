"""csr_aggregate against the dense product in float64, gradients included."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmrec_ext import NATIVE_ABSENT, Csr, csr_aggregate, reference
from tests.op_testing import TOLERANCES, device_type

OP = torch.ops.dmrec_ext
# dtypes of the dense matrix and of the result, and the tolerance of the latter
PAIRS = [*((dtype, dtype, tolerance) for dtype, tolerance in TOLERANCES)]
PAIRS += [(torch.bfloat16, torch.float32, 1e-5), (torch.float16, torch.float32, 1e-5)]
WIDTHS = [1, 15, 16, 33, 127, 128, 129, 200, 401, 1271]  # around pieces and panels of every instruction set


def _case(rows, cols, width, values=True, dtype=torch.float64, density=0.3, seed=0):
    generator = np.random.default_rng(seed)
    matrix = sp.random(rows, cols, density, format="csr", random_state=generator, dtype=np.float64)
    matrix.data = generator.normal(size=matrix.nnz) if values else np.ones(matrix.nnz)
    x = Csr.from_scipy(matrix, dtype=dtype)
    if values and x.values is None:  # no entries
        x = x._replace(values=torch.ones(x.nnz, dtype=dtype))
    torch.manual_seed(seed)
    return x, torch.randn(cols, width, dtype=torch.float64).to(dtype)


def _case_of_pair(size, pair, *options):
    """With values of the result's dtype."""
    x, weight = _case(*size, *options)
    return x._replace(values=None if x.values is None else x.values.to(pair[1])), weight.to(pair[0])


def _dense(x):
    return x._replace(values=None if x.values is None else x.values.double()).to_dense(torch.float64)


def _check(x, weight, bias, dtype, tolerance):
    """Value and all gradients against the dense product of the same numbers, relative to sums of magnitudes."""
    leaves = [t.detach().requires_grad_() for t in (x.values, weight, bias) if t is not None]
    grad = torch.linspace(-1.5, 2.5, x.n_rows * weight.shape[1]).view(x.n_rows, weight.shape[1]).to(dtype)
    values, (dense, *biases) = (None, leaves) if x.values is None else (leaves[0], leaves[1:])
    result = csr_aggregate(x._replace(values=values), dense, *biases, dtype=dtype)
    assert result.dtype == dtype
    gradients = [t.double().cpu() for t in torch.autograd.grad(result, leaves, grad)]

    exact, w, g = (t.detach().double().cpu() for t in (_dense(x), weight, grad))  # the reference runs on the CPU
    b = torch.zeros((), device="cpu") if bias is None else bias.double().cpu()
    scale = exact.abs() @ w.abs() + b.abs()
    assert ((result.double().cpu() - exact @ w - b).abs() <= tolerance * scale).all()
    if x.values is not None:
        col, rows = x.col.cpu(), x.row_of_entry().cpu()
        right, scale = (w[col] * g[rows]).sum(1), (w.abs()[col] * g.abs()[rows]).sum(1)
        assert ((gradients.pop(0) - right).abs() <= tolerance * scale).all()
    bound = dict(TOLERANCES)[weight.dtype] * (exact.abs().T @ g.abs())
    assert ((gradients.pop(0) - exact.T @ g).abs() <= bound).all()
    if bias is not None:
        right, scale = (g, g.abs()) if b.dim() == 2 else (g.sum(0), g.abs().sum(0))
        assert ((gradients.pop(0) - right).abs() <= tolerance * scale).all()


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("size", [(0, 5, 3), (6, 0, 3), (6, 5, 0), (1, 1, 1), *((41, 17, width) for width in WIDTHS)])
def test_is_the_dense_product(size, values, pair):
    x, weight = _case_of_pair(size, pair, values)
    for shape in (None, size[2:], (size[0], size[2])):
        _check(x, weight, None if shape is None else torch.randn(shape, dtype=torch.float64).to(pair[1]), *pair[1:])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300)),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    values=st.booleans(),
    pair=st.sampled_from(PAIRS),
    seed=st.integers(0, 2**31),
)
def test_is_the_dense_product_at_random(size, density, values, pair, seed):
    _check(*_case_of_pair(size, pair, values, torch.float64, density, seed), None, *pair[1:])


@pytest.mark.parametrize(("dtype", "result", "tolerance"), PAIRS)
def test_long_rows_lose_no_digits(dtype, result, tolerance):
    """Rows of 1, 256, 257, .. entries: sums run in parts of 256."""
    counts = [0, 1, 256, 257, 512, 1000, 40_000]
    x = Csr(
        torch.tensor([0, *np.cumsum(counts).tolist()]), torch.cat([torch.arange(c) for c in counts]), None, counts[-1]
    )
    weight = torch.rand(counts[-1], 130, dtype=torch.float64).to(dtype)  # of one sign: errors cannot hide
    expected = torch.stack([weight[:c].double().sum(0) for c in counts])
    assert ((csr_aggregate(x, weight, dtype=result).double() - expected).abs() <= tolerance * expected).all()


@pytest.mark.parametrize("pair", [PAIRS[1], *PAIRS[3:]])
def test_large_results_stream_to_memory(pair):
    """Above 8 MiB rows go past the caches where they are aligned, above 32 MiB on huge pages: the same numbers."""
    x, weight = _case_of_pair((9000, 40, 1024), pair, True, torch.float64, 0.05)
    result = csr_aggregate(x, weight, dtype=pair[1])
    for part in (slice(0, 50), slice(8000, 8050)):
        rows = csr_aggregate(x.rows(torch.arange(9000)[part]), weight, dtype=pair[1])  # too small for either
        assert torch.equal(result[part], rows)


@pytest.mark.parametrize("values", [True, False])
def test_gradients(values):
    """First and second derivatives against finite differences, with and without a transpose at hand."""
    x, weight = _case(6, 5, 3, values)
    leaves = [weight.requires_grad_(), torch.randn(6, 3).double().requires_grad_()]
    if values:
        leaves.append(x.values.requires_grad_())

    def function(w, b, v=None, cached=False):
        matrix = x._replace(values=v)
        return csr_aggregate(matrix, w, b, transpose=matrix.transpose() if cached else None)

    for cached in (False, True):
        assert torch.autograd.gradcheck(lambda *t, c=cached: function(*t, cached=c), leaves)
        assert torch.autograd.gradgradcheck(lambda *t, c=cached: function(*t, cached=c), leaves)
    assert torch.autograd.gradcheck(lambda b: function(weight.detach(), b), [torch.randn(3).double().requires_grad_()])


@pytest.mark.parametrize("size", [(0, 5, 3), (6, 0, 3), (6, 5, 0), (6, 5, 3)])
def test_nothing_to_sum_is_differentiable(size):
    x = Csr.from_scipy(sp.csr_matrix(size[:2]))
    weight = torch.randn(size[1:], requires_grad=True)
    result = csr_aggregate(x, weight)
    assert result.shape == (size[0], size[2])
    result.sum().backward()
    assert weight.grad.abs().sum() == 0


def _bits(x, weight, bias, grad):
    leaves = [t.detach().requires_grad_() for t in (x.values, weight, bias)]
    result = csr_aggregate(x._replace(values=leaves[0]), *leaves[1:], dtype=grad.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, grad)]


def test_the_same_bits_for_every_thread_count_and_run(native):
    threads = torch.get_num_threads()
    for *size, stored in [
        (300, 90, 200, torch.float32),
        (300, 90, 200, torch.float16),
        (20, 90, 700, torch.bfloat16),
        (20, 90, 700, torch.float32),
        (300, 3, 64, torch.float32),
    ]:
        rows, _, width = size
        x, weight = _case_of_pair(size, (stored, torch.float32))
        inputs = (x, weight, torch.randn(width), torch.randn(rows, width))
        first = _bits(*inputs)
        try:
            for count in (1, 2, 2):
                torch.set_num_threads(count)
                assert all(map(torch.equal, _bits(*inputs), first))
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_the_same_bits_for_every_split_of_the_batch(native, size):
    x, weight = _case(300, 600, 200, dtype=torch.float32, density=0.6)  # some rows of more than 256 entries
    bias, grad = torch.randn(300, 200), torch.randn(300, 200)
    whole, of_values, _, of_bias = _bits(x, weight, bias, grad)
    for start in range(0, 300, size):
        index = torch.arange(start, min(start + size, 300))
        part, values, _, biases = _bits(x.rows(index), weight, bias[index], grad[index])
        assert torch.equal(part, whole[index])
        assert torch.equal(values, of_values[x.crow[start] : x.crow[index[-1] + 1]])
        assert torch.equal(biases, of_bias[index])


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("width", [41, 256])
def test_the_same_bits_for_every_layout(native, width, stored):
    x, weight = _case_of_pair((30, 20, width), (stored, torch.float32))
    grad = torch.randn(30, width)
    layouts = {
        "slice of a wider matrix": torch.randn(20, 3 * width).to(stored)[:, width : 2 * width],
        "every third element": torch.randn(20, 3 * width).to(stored)[:, ::3],
        "transposed": torch.randn(width, 20).to(stored).T,
        "one row expanded": weight[:1].expand(20, width),
        "one column expanded": weight[:, :1].expand(20, width),
        "unaligned offset": torch.randn(20 * width + 1).to(stored)[1:].view(20, width),
    }
    for name, given_weight in layouts.items():
        plain = given_weight.clone(memory_format=torch.contiguous_format)
        mine = _bits(x, given_weight, torch.ones(1).expand(width), grad.T.contiguous().T)
        assert all(map(torch.equal, mine, _bits(x, plain, torch.ones(width), grad))), name
    strided = x._replace(crow=x.crow.repeat_interleave(2)[::2], col=x.col.repeat_interleave(2)[::2])
    assert torch.equal(csr_aggregate(strided, weight, dtype=grad.dtype), csr_aggregate(x, weight, dtype=grad.dtype))
    result = csr_aggregate(x, weight.requires_grad_(), dtype=grad.dtype)
    assert torch.equal(
        torch.autograd.grad(result.sum(), weight)[0], _bits(x, weight, grad[0], torch.ones(30, width))[2]
    )


def test_nan_stays_where_it_is_used():
    x, weight = _case(30, 20, 130, dtype=torch.float32)
    clean = csr_aggregate(x, weight)
    weight[7, 3] = float("nan")
    result = csr_aggregate(x, weight)
    hit = torch.zeros_like(result, dtype=torch.bool)
    hit[:, 3] = _dense(x)[:, 7] != 0
    assert torch.equal(result.isnan(), hit)
    assert torch.equal(result[~hit], clean[~hit])


def test_registration(native):
    for size in [(4, 6, 3), (0, 6, 3), (4, 0, 3), (4, 6, 0)]:
        x, weight = _case(*size, dtype=torch.float32)
        grad, leaf = torch.randn(size[0], size[2]), weight.clone().requires_grad_()
        bias, values = torch.randn(size[2], requires_grad=True), x.values.clone().requires_grad_()
        torch.library.opcheck(OP.csr_aggregate.default, (x.crow, x.col, None, weight))
        torch.library.opcheck(OP.csr_aggregate.default, (x.crow, x.col, values, leaf, bias, *x.transpose()[:3]))
        torch.library.opcheck(OP._csr_dot.default, (x.crow, x.col, grad.requires_grad_(), leaf))
        torch.library.opcheck(OP._csr_transpose.default, (x.crow, x.col, x.n_cols))


def test_compiles_without_breaks_and_seldom_again():
    torch._dynamo.reset()
    compilations = 0

    def counting_backend(graph, example):
        nonlocal compilations
        compilations += 1
        return graph.forward

    function = torch.compile(csr_aggregate, fullgraph=True, backend=counting_backend)
    weight = torch.randn(50, 24)
    for rows in np.random.default_rng(0).integers(2, 300, 20):
        x, _ = _case(int(rows), 50, 1, dtype=torch.float32, seed=int(rows))
        assert torch.equal(function(x, weight), csr_aggregate(x, weight))
    assert compilations <= 3

    end_to_end = torch.compile(csr_aggregate, fullgraph=True, backend="aot_eager", dynamic=True)
    x, _ = _case(17, 50, 1, dtype=torch.float32)
    leaf, bias = weight.requires_grad_(), torch.randn(24, requires_grad=True)
    grad = torch.randn(17, 24)
    for table in (leaf, leaf.detach().half().requires_grad_()):
        results = [f(x, table, bias, dtype=torch.float32) for f in (end_to_end, csr_aggregate)]
        pairs = [torch.autograd.grad(result, (table, bias), grad) for result in results]
        assert all(map(torch.equal, *pairs))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's own, for embedding_bag
def test_transforms_give_what_the_reference_gives():
    x, weight = _case(6, 5, 3)
    pairs = []
    for function in (csr_aggregate, reference.csr_aggregate):
        jacobian = torch.func.jacrev(lambda w, f=function: f(x, w))(weight)
        hessian = torch.func.hessian(lambda w, f=function: f(x, w).square().sum())(weight)
        pairs.append([jacobian, hessian, torch.func.jvp(lambda w, f=function: f(x, w), (weight,), (weight,))])
    torch.testing.assert_close(*pairs)
    torch.testing.assert_close(pairs[0][2], (csr_aggregate(x, weight),) * 2)


def test_a_transpose_outside_the_graph_costs_no_derivative():
    x, weight = _case(6, 5, 3)
    values = x.values.requires_grad_()
    with torch.no_grad():
        transpose = x.transpose()
    leaf = weight.requires_grad_()
    results = []
    for cached in (None, transpose):
        (of_dense,) = torch.autograd.grad(csr_aggregate(x, leaf, transpose=cached).sum(), leaf, create_graph=True)
        results.append(torch.autograd.grad(of_dense.square().sum(), values)[0])
    assert torch.equal(*results)


def test_what_comes_from_torch_compiles():
    x, weight = Csr.from_torch((torch.rand(6, 5) < 0.4).double()), torch.randn(5, 3, dtype=torch.float64)
    compiled = torch.compile(csr_aggregate, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, weight), csr_aggregate(x, weight))


def test_the_raw_operator_wants_one_device(native):
    x, weight = _case(6, 5, 3, False)
    with pytest.raises(ValueError, match="csr_aggregate: all tensors must be on one device"):
        OP.csr_aggregate(x.crow.to("meta"), x.col, None, weight)


def test_autocast_follows_the_dense_matrix():
    x, weight = _case(6, 5, 3, dtype=torch.bfloat16)
    bias = torch.randn(3, dtype=torch.bfloat16)
    with torch.autocast(device_type(), dtype=torch.bfloat16):
        result = csr_aggregate(x, weight.float(), bias)
    assert result.dtype == torch.float32
    assert torch.equal(result, csr_aggregate(x._replace(values=x.values.float()), weight.float(), bias.float()))


def test_empty_rows_give_the_bias():
    x = Csr(torch.tensor([0, 0, 1]), torch.tensor([1]), None, 2)
    assert csr_aggregate(x, torch.eye(2), torch.ones(2)).tolist() == [[1, 1], [1, 2]]


def test_bad_input():
    x, weight = _case(6, 5, 3)
    with pytest.raises(ValueError, match="csr_aggregate: x must have 4 columns, got 5"):
        csr_aggregate(x, weight[:4])
    with pytest.raises(TypeError, match=r"x.values must have the dtype of dense .torch.float32., got torch.float64"):
        csr_aggregate(x, weight.float())
    with pytest.raises(ValueError, match=r"bias must have the shape \(3,\) or \(6, 3\), got \(5, 3\)"):
        csr_aggregate(x, weight, weight)
    with pytest.raises(ValueError, match="transpose must have 5 rows, got 6"):
        csr_aggregate(x, weight, transpose=x)
    transpose = x.transpose()
    with pytest.raises(ValueError, match="transpose must have values just where x has them, got only one of them"):
        csr_aggregate(x, weight, transpose=transpose._replace(values=None))
    fewer = _case(5, 6, 1, density=0.1)[0]
    with pytest.raises(ValueError, match=f"transpose must have as many entries as x .{x.nnz}., got {fewer.nnz}"):
        csr_aggregate(x, weight, transpose=fewer)
    with pytest.raises(TypeError, match="dense must be a tensor, got list"):
        csr_aggregate(x, [1.0])
    with pytest.raises(TypeError, match="x must be a dmrec_ext.Csr, got Tensor"):
        csr_aggregate(weight, weight)


@pytest.mark.cpu_only("on a GPU a look at the indices would wait for it; tests/simt has what happens there")
def test_the_raw_operator_reads_nothing_out_of_range(native):
    crow, col, weight = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.randn(2, 4)
    far = torch.iinfo(torch.int64)
    for bad_crow in ([0, 2, 4], [1, 2, 3], [0, 4, 3], [0, -1, 3], [0, far.min, 3], [0, far.max, 3], [0, 2]):
        with pytest.raises(RuntimeError, match="crow must rise from 0 to the number of columns stored"):
            OP.csr_aggregate(torch.tensor(bad_crow), col, None, weight)
    for bad_col in ([0, 1, 2], [0, -1, 1], [far.min, 1, 1], [far.max, 1, 1]):
        for call in (
            lambda c: OP.csr_aggregate(crow, c, None, weight),
            lambda c: OP._csr_dot(crow, c, weight, weight),
            lambda c: OP._csr_transpose(crow, c, 2),
        ):
            with pytest.raises(RuntimeError, match=r"col must lie in \[0, 2\)"):
                call(torch.tensor(bad_col))
    with pytest.raises(RuntimeError, match=r"bias must have the shape \(E,\) or \(B, E\)"):
        OP.csr_aggregate(crow, col, None, weight, weight[:1])
    with pytest.raises(RuntimeError, match="values must have the dtype of dense"):
        OP.csr_aggregate(crow, col, torch.ones(3).double(), weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias_size", [None, (6,), (5, 6)])
def test_a_sparse_gradient_has_the_rows_that_are_used(weighted, bias_size):
    matrix = sp.random(5, 40, density=0.1, format="csr", random_state=3)
    x = Csr.from_scipy(matrix)
    values = x.values.double().requires_grad_() if weighted else None
    x = x._replace(values=values)
    dense = torch.randn(40, 6, dtype=torch.float64, requires_grad=True)
    bias = None if bias_size is None else torch.randn(bias_size, dtype=torch.float64, requires_grad=True)
    wanted = [each for each in (dense, values, bias) if each is not None]
    grad = torch.randn(5, 6, dtype=torch.float64)
    results = [csr_aggregate(x, dense, bias, sparse_grad=each) for each in (False, True)]
    assert torch.equal(*results)
    (of_dense, *others), (of_rows, *same) = (torch.autograd.grad(each, wanted, grad) for each in results)
    assert of_rows.is_sparse
    if not NATIVE_ABSENT:
        assert of_rows.is_coalesced()
        assert of_rows.indices()[0].tolist() == sorted(set(matrix.indices.tolist()))
    torch.testing.assert_close(of_rows.to_dense(), of_dense)
    torch.testing.assert_close(others, same)


def test_a_sparse_gradient_trains_like_a_dense_one():
    x = Csr.from_scipy(sp.random(9, 200, density=0.02, format="csr", random_state=1))._replace(values=None)
    table = torch.randn(200, 4)
    tables = [table.clone().requires_grad_() for _ in range(2)]
    for table, sparse in zip(tables, (False, True), strict=True):
        optimiser = torch.optim.SGD([table], lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            csr_aggregate(x, table, sparse_grad=sparse).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(*tables)
    csr_aggregate(x, tables[1], sparse_grad=True).sum().backward()
    torch.optim.SparseAdam([tables[1]]).step()  # takes it


@pytest.mark.parametrize(("n_rows", "stored"), [(60_000, torch.float32), (120_000, torch.bfloat16)])
def test_a_matrix_beyond_all_caches_gives_the_same_bits(native, n_rows, stored):
    """It is read in wider panels; 67 MiB of it, of which a few rows are used."""
    used = torch.arange(0, n_rows, 101)
    few = torch.randn(len(used), 293).to(stored)
    large = torch.zeros(n_rows, 293, dtype=stored)
    large[used] = few
    crow = torch.tensor([0, 5, 5, 300, len(used)])
    of_few = Csr(crow, torch.arange(len(used)), None, len(used))
    for dtype in {stored, torch.float32}:
        result = csr_aggregate(Csr(crow, used, None, n_rows), large, dtype=dtype)
        assert torch.equal(result, csr_aggregate(of_few, few, dtype=dtype))

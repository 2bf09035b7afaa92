"""residual_quantize against its equation, number by number, and against brute force."""

import pytest
import torch

from dmrec_ext import reference, residual_quantize, use_reference
from tests.op_testing import device_type, extra_bytes

GRADIENTS = ("first", "all", "full")


def made(b=7, levels=3, codes=5, width=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, width, generator=generator, dtype=torch.float64, device="cpu")
    books = torch.randn(levels, codes, width, generator=generator, dtype=torch.float64, device="cpu")
    return [t.to(dtype).to(torch.get_default_device()) for t in (x, books)]


def test_one_number():
    """x = 1, codes .75 and .2: what is left is .05, and the gradients are as the equation has them."""
    wanted = {"first": (0.125, -0.5), "all": (0.15, -0.5), "full": (0.15, -0.525)}
    for kind, (of_x, of_first) in wanted.items():
        x = torch.tensor([[1.0]], requires_grad=True)
        books = torch.tensor([[[0.75], [-0.75]], [[0.2], [-0.2]]], requires_grad=True)
        codes, quantized, loss = residual_quantize(x, books, residual_gradient=kind)
        assert codes.tolist() == [[0, 0]]
        assert quantized.item() == pytest.approx(0.95)
        assert loss.item() == pytest.approx(1.25 * (0.0625 + 0.0025))
        loss.sum().backward()
        assert x.grad.item() == pytest.approx(of_x)
        assert books.grad[:, 0].flatten().tolist() == pytest.approx([of_first, -0.1])
        assert books.grad[:, 1].abs().sum() == 0


@pytest.mark.parametrize("kind", GRADIENTS)
def test_is_its_equation_with_gradients(kind):
    x, books = made()
    codes, quantized, loss = residual_quantize(x, books, residual_gradient=kind)
    left, residuals = x, [x]
    for level in range(3):
        distance = (left[:, None] - books[level]).square().sum(2)
        assert torch.equal(codes[:, level], distance.argmin(1))
        left = left - books[level, codes[:, level]]
        residuals.append(left)
    torch.testing.assert_close(quantized, x - left)
    torch.testing.assert_close(loss, 1.25 * sum(r.square().sum(1) for r in residuals[1:]))

    leaves = [t.requires_grad_() for t in (x, books)]
    of_quantized, of_loss = torch.randn_like(x), torch.linspace(-1, 2, 7, dtype=x.dtype)
    _, quantized, loss = residual_quantize(*leaves, residual_gradient=kind)
    of_x, of_books = torch.autograd.grad([quantized, loss], leaves, [of_quantized, of_loss])
    later = residuals[1:2] if kind == "first" else residuals[1:]
    torch.testing.assert_close(of_x, of_quantized + 0.5 * of_loss[:, None] * sum(later))
    expected = torch.zeros_like(books)
    for level in range(3):
        for b, code in enumerate(codes[:, level].tolist()):
            beyond = sum(residuals[level + 2 :], torch.zeros_like(x)) if kind == "full" else torch.zeros_like(x)
            expected[level, code] -= of_loss[b] * (2 * residuals[level + 1][b] + 0.5 * beyond[b])
    torch.testing.assert_close(of_books, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    x, books = made(b=30, width=16, dtype=dtype)
    codes, quantized, loss = residual_quantize(x, books)
    right = reference.residual_quantize(x.double(), books.double())
    assert torch.equal(codes, right[0])
    assert quantized.dtype == loss.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(quantized.double(), right[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(loss.double(), right[2], rtol=tolerance, atol=tolerance)


def test_ties_go_to_the_lowest_code():
    x = torch.zeros(3, 2)
    books = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]]])
    assert residual_quantize(x, books)[0].flatten().tolist() == [0, 0, 0]
    assert residual_quantize(x, books.flip(1))[0].flatten().tolist() == [0, 0, 0]
    assert residual_quantize(torch.tensor([[0.0, 1.0]]), books)[0].item() == 1


@pytest.mark.parametrize("rows", [1, 2, 7, 256])
def test_the_same_bits_for_any_batch_and_thread_count(rows):
    x, books = made(b=600, levels=3, codes=100, width=33, dtype=torch.float32)
    whole = residual_quantize(x, books)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            parts = [residual_quantize(part, books) for part in x.split(rows)]
            for mine, right in zip(zip(*parts, strict=True), whole, strict=True):
                assert torch.equal(torch.cat(mine), right)
    finally:
        torch.set_num_threads(threads)


def test_gradients_repeat_bit_for_bit():
    x, books = made(b=600, levels=2, codes=20, width=9, dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (x, books)]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(residual_quantize(*leaves)[2].sum(), leaves))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_duplicates_nothing_and_nan():
    x, books = made(dtype=torch.float32)
    twice = residual_quantize(torch.cat([x, x]), books)
    for each in twice:
        assert torch.equal(each[:7], each[7:])
    assert [tuple(t.shape) for t in residual_quantize(x[:0], books)] == [(0, 3), (0, 4), (0,)]
    assert [tuple(t.shape) for t in residual_quantize(x, books[:0])] == [(7, 0), (7, 4), (7,)]
    damaged = x.clone()
    damaged[3, 1] = torch.nan
    found, clean = residual_quantize(damaged, books), residual_quantize(x, books)
    others = torch.arange(7) != 3
    assert all(torch.equal(mine[others], right[others]) for mine, right in zip(found, clean, strict=True))
    assert found[0][3].tolist() == [0, 0, 0]
    assert found[2][3].isnan()


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((torch.zeros(3), torch.zeros(1, 2, 3)), {}, ValueError, "x must have 2 dimensions, got 1"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {}, ValueError, "codebooks must have 3 dimensions, got 2"),
        ((torch.zeros(2, 3), torch.zeros(1, 2, 4)), {}, ValueError, r"codebooks must have the width of x \(3\), got 4"),
        ((torch.zeros(2, 3), torch.zeros(1, 0, 3)), {}, ValueError, "codebooks must have at least one code per level"),
        ((torch.zeros(2, 3), torch.zeros(1, 2, 3).double()), {}, TypeError, "codebooks must have the dtype of x"),
        ((torch.zeros(2, 3), torch.zeros(1, 2, 3)), {"beta": -1.0}, ValueError, "beta must be at least 0, got -1"),
        ((torch.zeros(2, 3), torch.zeros(1, 2, 3)), {"residual_gradient": "no"}, ValueError, "must be one of 'first'"),
    ],
)
def test_bad_arguments(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        residual_quantize(*arguments, **options)


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "size", [(0, 2, 3, 4), (5, 2, 1, 1), (3, 1, 200, 7), (9, 4, 33, 129), (6, 2, 5, 0), (40, 3, 260, 32)]
)
def test_native_is_the_reference(size, dtype, kind, native):
    b, levels, codes, width = size
    leaves = [t.requires_grad_() for t in made(b, levels, codes, width, dtype)]
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]
    found = residual_quantize(*leaves, beta=0.7, residual_gradient=kind)
    right = reference.residual_quantize(*exact, beta=0.7, residual_gradient=kind)
    assert torch.equal(found[0].cpu(), right[0])
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    grads = [torch.randn(t.shape, dtype=torch.float64, device="cpu") for t in right[1:]]
    for mine, wanted in zip(found[1:], right[1:], strict=True):
        assert (mine.double().cpu() - wanted).norm() <= tolerance * (1 + wanted.norm())
    mine = torch.autograd.grad(found[1:], leaves, [g.to(leaves[0]) for g in grads])
    for each, wanted in zip(mine, torch.autograd.grad(right[1:], exact, grads), strict=True):
        assert each.dtype == dtype
        assert (each.double().cpu() - wanted).norm() <= tolerance * (1 + wanted.norm())


@pytest.mark.parametrize("kind", GRADIENTS)
def test_every_subset_of_outputs_and_gradients(kind):
    x, books = made()
    grads = {1: torch.randn_like(x), 2: torch.linspace(-1, 2, 7, dtype=x.dtype)}
    for wanted in ((0,), (1,), (0, 1)):
        for outputs in ((1,), (2,), (1, 2)):
            leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate((x, books))]
            plain = reference.residual_quantize(*leaves, residual_gradient=kind)
            used = [i for i in outputs if plain[i].requires_grad]  # sums teach nothing to the codes
            if not used:
                continue
            found = residual_quantize(*leaves, residual_gradient=kind)
            inputs, of = [leaves[i] for i in wanted], [grads[i] for i in used]
            mine = torch.autograd.grad([found[i] for i in used], inputs, of)
            right = torch.autograd.grad([plain[i] for i in used], inputs, of, allow_unused=True, materialize_grads=True)
            for each, expected in zip(mine, right, strict=True):
                torch.testing.assert_close(each, expected)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_further_derivatives_run_on_plain_torch(kind):
    x, books = (t.requires_grad_() for t in made(b=3, levels=2, codes=3, width=2))

    def loss(x, books):
        _, quantized, loss = residual_quantize(x, books, residual_gradient=kind)
        return (loss * quantized.sum(1)).sum()

    plain = torch.autograd.grad(loss(x, books), (x, books))
    graph = torch.autograd.grad(loss(x, books), (x, books), create_graph=True)
    for mine, right in zip(graph, plain, strict=True):
        torch.testing.assert_close(mine, right)
    second = torch.autograd.grad(sum(g.square().sum() for g in graph), (x, books))
    with use_reference():
        expected = torch.autograd.grad(loss(x, books), (x, books), create_graph=True)
        expected = torch.autograd.grad(sum(g.square().sum() for g in expected), (x, books))
    for mine, right in zip(second, expected, strict=True):
        torch.testing.assert_close(mine, right)


def test_layouts_do_not_matter():
    x, books = made(b=6, width=8, dtype=torch.float32)
    plain = residual_quantize(x, books)
    wide = torch.cat([x, x, x], 1)
    for other in (wide[:, 8:16], x.T.contiguous().T, torch.stack([x, x], 2)[:, :, 0]):
        turned = books.transpose(0, 2).contiguous().transpose(0, 2)
        assert all(map(torch.equal, residual_quantize(other, turned), plain))


def test_registration(native):
    for b, kind in ((5, "all"), (0, "first"), (5, "full")):
        x, books = (t.requires_grad_() for t in made(b=b, dtype=torch.float32))
        torch.library.opcheck(torch.ops.dmrec_ext.residual_quantize.default, (x, books, 0.25, kind))
    x, books = (t.requires_grad_() for t in made(dtype=torch.float32))
    compiled = torch.compile(residual_quantize, fullgraph=True, backend="aot_eager")
    for mine, right in zip(compiled(x, books), residual_quantize(x, books), strict=True):
        assert torch.equal(mine, right)
    of = [torch.autograd.grad(f(x, books)[2].sum(), (x, books)) for f in (compiled, residual_quantize)]
    assert all(map(torch.equal, *of))


def test_autocast():
    x, books = made(dtype=torch.bfloat16)
    with torch.autocast(device_type(), dtype=torch.bfloat16):
        _, quantized, loss = residual_quantize(x, books)
    assert quantized.dtype == loss.dtype == torch.float32


@pytest.mark.cpu_only("the bound on a GPU is in tests/gpu")
def test_no_matrix_of_rows_and_codes(native):
    x, books = torch.randn(100_000, 8, requires_grad=True), torch.randn(2, 256, 8, requires_grad=True)
    results = (2 * 8 + 8 * 4 + 4) * 100_000  # codes, sums and losses
    assert extra_bytes(lambda: residual_quantize(x, books)) < results + (1 << 20)
    sorted_rows, gradient = 5 * 8 * 100_000, 8 * 4 * 100_000
    step = lambda: torch.autograd.grad(residual_quantize(x, books)[2].sum(), (x, books))  # noqa: E731
    assert extra_bytes(step) < results + 2 * sorted_rows + gradient + (4 << 20)


@pytest.mark.cpu_only("on a GPU a look at the indices would wait for it; tests/simt has what happens there")
def test_the_raw_operator_reads_nothing_out_of_range(native):
    op = torch.ops.dmrec_ext
    x, books = made(b=4, levels=2, codes=3, width=2, dtype=torch.float32)
    _, loss, codes = op.residual_quantize(x, books, 0.25, "all")
    begin, rows = torch.tensor([[0, 4, 4, 4]] * 2), torch.arange(4).repeat(2, 1)
    far = torch.iinfo(torch.int64).max
    good = (None, loss, x, books, codes, begin, rows, 0.25, "all", 3)
    op._residual_quantize_backward(*good)
    for place, bad in (
        (4, codes + 3),
        (4, codes - far),
        (4, codes[:3]),
        (5, begin + 1),
        (5, torch.tensor([[0, far, 4, 4]] * 2)),
        (6, rows + 1),
        (6, rows - 1),
        (6, rows.int()),
        (1, loss[:2]),
        (8, "some"),
    ):
        with pytest.raises(RuntimeError, match="residual_quantize"):
            op._residual_quantize_backward(*good[:place], bad, *good[place + 1 :])
    for bad in ((x, books[:, :, :1], 0.25, "all"), (x, books[:, :0], 0.25, "all"), (x, books, -1.0, "all")):
        with pytest.raises(RuntimeError, match="residual_quantize"):
            op.residual_quantize(*bad)

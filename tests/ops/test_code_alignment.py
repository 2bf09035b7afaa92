"""code_alignment against its definition, its closed-form gradients, and what the algebra says about it."""

import math

import pytest
import torch

from dmrec_ext import code_alignment, reference
from tests.op_testing import device_type, extra_bytes

DIRECTIONS, NEGATIVES = ("forward", "reverse", "symmetric"), ("batch_mean", "leave_one_out")


def logits(b=5, levels=3, codes=7, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        scale * torch.randn(b, levels, codes, generator=generator, dtype=torch.float64, device="cpu") for _ in "yp"
    ]
    return [x.to(dtype).to(torch.get_default_device()) for x in drawn]


def by_definition(target, prediction, direction, negative):
    """(B,) delta from divergences of probabilities, row by row."""
    y, p = target.softmax(-1), prediction.softmax(-1)
    rows = []
    for b in range(len(y)):
        others = [i for i in range(len(y)) if negative == "batch_mean" or i != b]
        n = p[others].mean(0)

        def kl(a, c):
            return (a * (a / c).log()).sum()

        delta = 0.0
        if direction != "reverse":
            delta = delta + kl(y[b], n) - kl(y[b], p[b])
        if direction != "forward":
            delta = delta + kl(n, y[b]) - kl(p[b], y[b])
        rows.append(delta)
    return torch.stack(rows)


@pytest.mark.parametrize("negative", NEGATIVES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_is_its_definition(direction, negative):
    target, prediction = logits()
    delta = by_definition(target, prediction, direction, negative)
    loss = code_alignment(target, prediction, direction=direction, negative=negative)
    torch.testing.assert_close(loss, torch.nn.functional.softplus(-delta), rtol=1e-12, atol=1e-12)
    steep = code_alignment(target, prediction, direction=direction, negative=negative, slope=3.0)
    torch.testing.assert_close(steep, 3 * torch.nn.functional.softplus(-delta / 3), rtol=1e-12, atol=1e-12)
    alone = [
        code_alignment(target[:, [k]], prediction[:, [k]], direction=direction, negative=negative, slope=1e6)
        for k in range(3)
    ]
    weighted = code_alignment(
        target, prediction, direction=direction, negative=negative, level_weights=[1.0, 0.0, 2.0], slope=1e6
    )
    linear = 1e6 * math.log(2)  # a softplus that flat is a line
    torch.testing.assert_close(weighted - linear, alone[0] - linear + 2 * (alone[2] - linear), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_tells_nothing_costs_log_2(direction):
    target, prediction = logits()
    two = pytest.approx(math.log(2), abs=1e-12)
    assert code_alignment(target[:1], prediction[:1], direction=direction).item() == two
    same = prediction[:1].expand_as(prediction)
    assert code_alignment(target, same, direction=direction).tolist() == [two] * 5
    assert code_alignment(target, same, direction=direction, negative="leave_one_out").tolist() == [two] * 5
    flat = torch.zeros_like(target)
    assert code_alignment(flat, flat, direction=direction).tolist() == [two] * 5
    delta = by_definition(target, prediction, direction, "batch_mean")
    assert torch.equal(code_alignment(target, prediction, direction=direction) < math.log(2), delta > 0)


def test_delta_is_at_most_levels_log_batch():
    """Reached where each row is sure of a code of its own."""
    rows = 1000 * torch.eye(5, 7, dtype=torch.float64)[:, None].expand(5, 3, 7)
    bound = 3 * math.log(5)
    wanted = math.log1p(math.exp(-bound))
    assert code_alignment(rows, rows).tolist() == [pytest.approx(wanted, rel=1e-9)] * 5
    for seed in range(20):
        loss = code_alignment(*logits(seed=seed, scale=8.0))
        assert (loss >= wanted).all()


def test_with_equal_distributions_delta_is_mutual_information():
    _, prediction = logits()
    p = prediction.softmax(-1)

    def entropy(x):
        return -(x * x.log()).sum(-1)

    information = (entropy(p.mean(0)) - entropy(p).mean(0)).sum()
    delta = by_definition(prediction, prediction, "forward", "batch_mean").mean()
    assert delta.item() == pytest.approx(information.item(), abs=1e-12)
    loss = code_alignment(prediction, prediction)
    assert (-torch.log(torch.expm1(loss))).mean().item() == pytest.approx(information.item(), abs=1e-10)


def test_sure_targets_pick_a_code():
    target, prediction = logits()
    sharp = target * 1e6
    code = target.argmax(-1, keepdim=True)
    p = prediction.softmax(-1)
    delta = (p.gather(-1, code).log() - p.mean(0).expand_as(p).gather(-1, code).log()).sum((1, 2))
    torch.testing.assert_close(code_alignment(sharp, prediction), torch.nn.functional.softplus(-delta))


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("negative", NEGATIVES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_derivatives(direction, negative, detached):
    leaves = [x.requires_grad_() for x in logits(b=4, levels=2, codes=3)]
    options = {"direction": direction, "negative": negative, "detach_negative": detached}
    if not detached:  # finite differences see through a detached negative
        assert torch.autograd.gradcheck(lambda y, p: code_alignment(y, p, **options), leaves)
        assert torch.autograd.gradgradcheck(lambda y, p: code_alignment(y, p, **options), leaves)
    weight = torch.linspace(-1, 2, 4, dtype=torch.float64)
    for gradient in torch.autograd.grad(code_alignment(*leaves, **options), leaves, weight):
        torch.testing.assert_close(gradient.sum(-1), torch.zeros(4, 2, dtype=torch.float64), rtol=0, atol=1e-14)
        assert gradient.abs().max() > 1e-3


def closed_form(target, prediction, direction, grad, detached):
    """Gradients as the specification of the loss writes them, for the mean over the batch as the negative."""
    y, p = target.softmax(-1), prediction.softmax(-1)
    n = p.mean(0, keepdim=True)
    w = grad * torch.sigmoid(-by_definition(target, prediction, direction, "batch_mean"))
    w = w[:, None, None]

    def centred(a, x):
        return a * (x - (a * x).sum(-1, keepdim=True))

    if direction == "forward":
        t, u = p.log() - n.log(), (w * y).sum(0, keepdim=True) / (len(y) * n)
        return -w * centred(y, t), -w * (y - p) + (0 if detached else centred(p, u))
    a, u = p.log() - y.log(), -(w * (n.log() - y.log())).mean(0, keepdim=True)
    return -w * (p - n), w * centred(p, a) + (0 if detached else centred(p, u))


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gradients_in_closed_form(direction, detached):
    leaves = [x.requires_grad_() for x in logits()]
    grad = torch.linspace(-1, 2, 5, dtype=torch.float64)
    loss = code_alignment(*leaves, direction=direction, detach_negative=detached)
    found = torch.autograd.grad(loss, leaves, grad)
    right = closed_form(*(x.detach() for x in leaves), direction, grad, detached)
    for mine, expected in zip(found, right, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("negative", NEGATIVES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 200.0])
def test_float32_is_float64(scale, direction, negative):
    """Probabilities leave float32 from logits of some 90 apart."""
    exact = [x.requires_grad_() for x in logits(b=9, codes=16, scale=scale, dtype=torch.float32)]
    wide = [x.detach().double().requires_grad_() for x in exact]
    options = {"direction": direction, "negative": negative}
    loss, right = code_alignment(*exact, **options), reference.code_alignment(*wide, **options)
    assert torch.isfinite(loss).all()
    torch.testing.assert_close(loss.double(), right, rtol=1e-4, atol=1e-4)
    pairs = zip(torch.autograd.grad(loss.sum(), exact), torch.autograd.grad(right.sum(), wide), strict=True)
    for mine, expected in pairs:
        assert torch.isfinite(mine).all()
        assert (mine.double() - expected).norm() <= 1e-4 * (1 + expected.norm())


def test_one_row_that_is_alone_with_its_code():
    """The average of the others is far below what float32 can subtract."""
    target, prediction = (torch.zeros(4, 1, 3) for _ in range(2))
    prediction[:, 0, 0], prediction[1, 0, 0] = -150.0, 150.0
    loss = code_alignment(target, prediction, negative="leave_one_out")
    wide = code_alignment(target.double(), prediction.double(), negative="leave_one_out")
    assert torch.isfinite(loss).all()
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=1e-5)


def test_no_rows_and_16_bits():
    for negative in NEGATIVES:
        assert code_alignment(*(torch.zeros(0, 2, 3) for _ in range(2)), negative=negative).shape == (0,)
    target, prediction = logits(dtype=torch.bfloat16)
    loss = code_alignment(target, prediction)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, code_alignment(target.float(), prediction.float()))


def test_nan_in_a_target_stays_in_its_row():
    target, prediction = logits()
    clean = code_alignment(target, prediction)
    target[2, 1, 0] = torch.nan
    found = code_alignment(target, prediction)
    assert found.isnan().tolist() == [False, False, True, False, False]
    assert torch.equal(found[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {}, ValueError, "target must have 3 dimensions, got 2"),
        ((torch.zeros(2, 1, 3), torch.zeros(2, 1, 4)), {}, ValueError, r"prediction must have the shape of target \(2"),
        ((torch.zeros(2, 1, 3), torch.zeros(2, 1, 3).double()), {}, TypeError, "prediction must have the dtype"),
        ((torch.zeros(2, 1, 3),) * 2, {"direction": "back"}, ValueError, "direction must be one of 'forward'"),
        ((torch.zeros(2, 1, 3),) * 2, {"negative": "all"}, ValueError, "negative must be one of 'batch_mean'"),
        ((torch.zeros(1, 1, 3),) * 2, {"negative": "leave_one_out"}, ValueError, "target must have at least 2 rows"),
        ((torch.zeros(2, 1, 3),) * 2, {"level_weights": [1, 2]}, ValueError, "level_weights must have one number per"),
        ((torch.zeros(2, 1, 3),) * 2, {"slope": 0.0}, ValueError, "slope must be positive, got 0"),
        (([1.0], torch.zeros(2, 1, 3)), {}, TypeError, "target must be a tensor, got list"),
    ],
)
def test_bad_arguments(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        code_alignment(*arguments, **options)


@pytest.mark.parametrize("negative", NEGATIVES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 1, 1), (3, 2, 65), (130, 2, 17), (5, 3, 256), (70, 1, 130), (2, 0, 4), (3, 1, 0)])
def test_native_is_the_reference(size, dtype, direction, negative, native):
    b, levels, codes = size
    options = {"direction": direction, "negative": negative, "slope": 2.0}
    options["level_weights"] = [0.5 + level for level in range(levels)]
    leaves = [x.requires_grad_() for x in logits(b, levels, codes, dtype=dtype)]
    exact = [x.detach().cpu().double().requires_grad_() for x in leaves]
    loss, right = code_alignment(*leaves, **options), reference.code_alignment(*exact, **options)
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(loss.double().cpu(), right, rtol=tolerance, atol=tolerance)
    grad = torch.linspace(-1, 2, b, dtype=torch.float64, device="cpu")
    for detached in (False, True):
        loss = code_alignment(*leaves, **options, detach_negative=detached)
        right = reference.code_alignment(*exact, **options, detach_negative=detached)
        mine = torch.autograd.grad(loss, leaves, grad.to(loss))
        for each, expected in zip(mine, torch.autograd.grad(right, exact, grad), strict=True):
            assert each.dtype == dtype
            assert (each.double().cpu() - expected).norm() <= tolerance * (1 + expected.norm())


def test_every_subset_of_gradients():
    target, prediction = logits(dtype=torch.float32)
    leaves = [x.detach().requires_grad_() for x in (target, prediction)]
    both = torch.autograd.grad(code_alignment(*leaves).sum(), leaves)
    for wanted in (0, 1):
        leaves = [x.detach().requires_grad_(i == wanted) for i, x in enumerate((target, prediction))]
        loss = code_alignment(*leaves).sum()
        loss.backward(retain_graph=True)
        assert torch.equal(leaves[wanted].grad, both[wanted])
        assert leaves[1 - wanted].grad is None
        loss.backward()
        assert torch.equal(leaves[wanted].grad, 2 * both[wanted])


@pytest.mark.parametrize("negative", NEGATIVES)
def test_the_same_bits_for_any_thread_count(negative):
    leaves = [x.requires_grad_() for x in logits(200, 3, 100, dtype=torch.float32)]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            loss = code_alignment(*leaves, negative=negative, direction="symmetric")
            found.append([loss, *torch.autograd.grad(loss.sum(), leaves)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_layouts_do_not_matter():
    target, prediction = logits(dtype=torch.float32)
    plain = code_alignment(target, prediction)
    turned = [x.transpose(0, 2).contiguous().transpose(0, 2) for x in (target, prediction)]
    assert torch.equal(code_alignment(*turned), plain)
    assert torch.equal(code_alignment(torch.cat([target, target], 2)[:, :, :7], prediction), plain)
    assert torch.equal(code_alignment(target[:1].expand(5, 3, 7), prediction)[0], plain[0])


def test_registration(native):
    op = torch.ops.dmrec_ext.code_alignment.default
    for b, negative in ((4, "batch_mean"), (4, "leave_one_out"), (0, "batch_mean")):
        leaves = [x.requires_grad_() for x in logits(b, dtype=torch.float32)]
        weights = torch.ones(3) if b else None
        torch.library.opcheck(op, (*leaves, "symmetric", negative, False, weights, 1.0, True))
    leaves = [x.requires_grad_() for x in logits(dtype=torch.float32)]
    compiled = torch.compile(code_alignment, fullgraph=True, backend="aot_eager")
    of = [torch.autograd.grad(f(*leaves).sum(), leaves) for f in (compiled, code_alignment)]
    assert torch.equal(compiled(*leaves), code_alignment(*leaves))
    assert all(map(torch.equal, *of))


def test_autocast():
    target, prediction = logits(dtype=torch.bfloat16)
    with torch.autocast(device_type(), dtype=torch.bfloat16):
        mixed = code_alignment(target.float(), prediction)
    assert torch.equal(mixed, code_alignment(target, prediction))


@pytest.mark.cpu_only("the bound on a GPU is in tests/gpu")
def test_what_is_kept_for_the_backward(native):
    """Probabilities, where gradients are asked for and both take at most 64 MiB; else nothing of the logits' size."""
    leaves = [torch.randn(2048, 2, 256, requires_grad=True) for _ in "yp"]
    n, little = leaves[0].numel() * 4, 1 << 20
    with torch.no_grad():
        assert extra_bytes(lambda: code_alignment(*leaves)) < little
    assert 2 * n <= extra_bytes(lambda: code_alignment(*leaves)) < 2 * n + little
    leaves = [torch.randn(4200, 2, 1024, requires_grad=True) for _ in "yp"]
    n = leaves[0].numel() * 4
    assert extra_bytes(lambda: code_alignment(*leaves)) < little
    assert extra_bytes(lambda: torch.autograd.grad(code_alignment(*leaves).sum(), leaves)) < 2 * n + little


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "symmetric"])
def test_codes_that_hardly_any_row_has(keep, direction, native):
    """Some means of probabilities vanish, others do not; what is kept changes nothing."""
    y, p = logits(5, dtype=torch.float32)
    p[:, 1, 2], p[:, 2, 3], p[1:, 0, 1] = -120.0, -50.0, -300.0
    exact = [x.double().requires_grad_() for x in (y, p)]
    wanted = reference.code_alignment(*exact, direction=direction)
    op = torch.ops.dmrec_ext
    options = (direction, "batch_mean", False, None, 1.0)
    loss, *saved = op.code_alignment(y, p, *options, keep)
    assert saved[-1].shape[0] == (2 if keep else 0)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    gradients = op._code_alignment_backward(torch.ones(5), y, p, *saved, *options, 3)
    for found, right in zip(gradients, torch.autograd.grad(wanted.sum(), exact), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=2e-6)


def test_the_raw_operator_takes_what_fits(native):
    op = torch.ops.dmrec_ext
    x, y = logits(dtype=torch.float32)
    options = ("forward", "batch_mean", False, None, 1.0)
    loss, row_sums, columns, delta, kept = op.code_alignment(x, y, *options, True)
    good = (loss, x, y, row_sums, columns, delta, kept, *options, 3)
    op._code_alignment_backward(*good)
    for place, bad in (
        (0, loss[:2]),
        (0, loss.double()),
        (2, y[:, :1]),
        (3, row_sums[:2]),
        (4, columns[:, :, :3]),
        (4, columns.transpose(1, 2)),
        (5, delta[:1]),
        (6, kept[:1]),
        (6, kept.double()),
        (7, "back"),
        (8, "none"),
        (10, torch.ones(2)),
        (11, 0.0),
    ):
        with pytest.raises(RuntimeError, match="code_alignment"):
            op._code_alignment_backward(*good[:place], bad, *good[place + 1 :])

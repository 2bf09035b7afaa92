"""The checks that every row operator passes, fed with one `OpCase` per operator.

A case names the public function, its reference and how many (B, D) inputs it takes; the checks make the inputs, on
torch's default device: on the CPU, or on a GPU where `tests/gpu` runs them. The reference is computed on the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

# dtype and tolerance travel together; relative to the sum of the magnitudes of a row's terms
TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)]
SIZES = [(0, 3), (3, 0), (1, 1), (1, 401), (41, 1), (7, 31), (5, 32), (41, 200), (3, 1271)]


def device_type() -> str:
    """Where tests make their tensors: ``"cpu"`` or ``"cuda"``."""
    return torch.get_default_device().type


def extra_bytes(step: Callable[[], Any]) -> int:
    """Peak of what a step allocates through torch on the default device, results included."""
    if device_type() == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    del result
    now = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@dataclass(frozen=True)
class OpCase:
    """A row operator under test: ``function(*inputs)`` and ``reference(*inputs)`` take ``n_inputs`` (B, D) tensors.

    ``magnitude(*inputs)`` is the sum of the magnitudes of the terms of each row, what errors are relative to.
    """

    name: str
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    operator: Any  # torch.ops.dmrec_ext.<op>.default
    n_inputs: int
    magnitude: Callable[..., Tensor]
    options: tuple[Any, ...] = ()  # what the operator takes behind its inputs

    def inputs(self, size: tuple[int, int], dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        device = torch.get_default_device()  # the same numbers on every device
        drawn = [
            torch.randn(size, generator=generator, dtype=torch.float64, device="cpu") for _ in range(self.n_inputs)
        ]
        return [(scale * x).to(dtype).to(device) for x in drawn]


def _grad_output(n_rows: int, dtype: torch.dtype) -> Tensor:
    return torch.linspace(-1.5, 2.5, n_rows, dtype=torch.float64).to(dtype)  # not all ones: a weighted loss


def _gradients(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    return list(torch.autograd.grad(function(*leaves), leaves, grad))


def check_against_reference(case: OpCase, inputs: list[Tensor], tolerance: float) -> None:
    """Value and gradients against the reference in float64, on the CPU, on the very same numbers."""
    exact = [x.double().cpu() for x in inputs]
    finest = torch.finfo(inputs[0].dtype).smallest_normal * torch.finfo(inputs[0].dtype).eps  # a subnormal's step
    scale = case.magnitude(*exact)
    result = case.function(*inputs)
    assert result.dtype == inputs[0].dtype
    assert result.shape == inputs[0].shape[:1]
    assert result.device == inputs[0].device
    assert ((result.double().cpu() - case.reference(*exact)).abs() <= tolerance * scale + finest).all()

    grad = _grad_output(len(inputs[0]), inputs[0].dtype)
    right_grad = grad.double().cpu()
    expected = _gradients(case.reference, exact, right_grad)
    for mine, right in zip(_gradients(case.function, inputs, grad), expected, strict=True):
        assert mine.dtype == inputs[0].dtype
        bound = tolerance * (right.abs() + right_grad.abs()[:, None]) + finest
        assert ((mine.double().cpu() - right).abs() <= bound).all()


def check_sizes(case: OpCase) -> None:
    """As above for odd sizes, 0 and 1 in every dtype."""
    for size in SIZES:
        for dtype, tolerance in TOLERANCES:
            check_against_reference(case, case.inputs(size, dtype), tolerance)


def check_random_shapes(case: OpCase) -> None:
    """As above over shapes, scales and dtypes that hypothesis chooses."""

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        size=st.tuples(st.integers(0, 50), st.integers(0, 300)),
        scale=st.sampled_from([1e-4, 0.1, 1.0, 3.0]),
        dtype=st.sampled_from(TOLERANCES),
        seed=st.integers(0, 2**31),
    )
    def run(size: tuple[int, int], scale: float, dtype: tuple[torch.dtype, float], seed: int) -> None:
        check_against_reference(case, case.inputs(size, dtype[0], seed, scale), dtype[1])

    run()


def check_layouts(case: OpCase) -> None:
    """Strided, transposed, expanded and offset inputs give the bits of contiguous ones, gradients included."""
    b, d = 13, 41
    wide = [torch.randn(b, 3 * d) for _ in range(case.n_inputs)]
    layouts = {
        "slice of a wider matrix": [x[:, d : 2 * d] for x in wide],
        "every third element": [x[:, ::3] for x in wide],
        "transposed": [torch.randn(d, b).T for _ in range(case.n_inputs)],
        "one row expanded": [x[:1, :d].expand(b, d) for x in wide],
        "one column expanded": [x[:, :1].expand(b, d) for x in wide],
        "unaligned offset": [x.flatten()[1 : 1 + b * d].view(b, d) for x in wide],
        "every second row": [torch.randn(2 * b, d)[::2] for _ in range(case.n_inputs)],
    }
    grad = _grad_output(b, torch.float32)
    for name, inputs in layouts.items():
        plain = [x.clone(memory_format=torch.contiguous_format) for x in inputs]
        assert torch.equal(case.function(*inputs), case.function(*plain)), name
        for mine, right in zip(
            _gradients(case.function, inputs, grad), _gradients(case.function, plain, grad), strict=True
        ):
            assert torch.equal(mine, right), name
    x = [torch.randn(b, d, requires_grad=True) for _ in range(case.n_inputs)]
    case.function(*x).sum().backward()  # the incoming gradient is one number, expanded
    assert all(torch.equal(a.grad, g) for a, g in zip(x, _gradients(case.function, x, torch.ones(b)), strict=True))


def check_broadcasting(case: OpCase) -> None:
    """Vectors, matrices and more dimensions give what the expanded matrices give, gradients summed over copies."""
    b, t, d = 5, 3, 33
    drawn = case.inputs((b * t, d), torch.float32, seed=5)
    rows, batch = (d,), (b, t, d)
    for shape, of_prior in ((rows, rows), (batch, batch), (batch, rows), (batch, (b, 1, d)), (rows, (b, d))):
        shapes = [shape if 2 * i < case.n_inputs else of_prior for i in range(case.n_inputs)]
        leaves = [x[: math.prod(s[:-1])].reshape(s) for x, s in zip(drawn, shapes, strict=True)]
        leaves = [x.clone().requires_grad_() for x in leaves]
        whole = torch.broadcast_shapes(*shapes)
        matrices = [x.expand(whole).reshape(-1, d).clone() for x in (leaf.detach() for leaf in leaves)]
        expected = case.function(*(x.requires_grad_() for x in matrices))
        result = case.function(*leaves)
        assert result.shape == whole[:-1]
        assert torch.equal(result.reshape(-1), expected)
        grad = _grad_output(expected.numel(), torch.float32)
        gradients = torch.autograd.grad(result, leaves, grad.reshape(result.shape))
        for mine, right in zip(gradients, torch.autograd.grad(expected, matrices, grad), strict=True):
            torch.testing.assert_close(mine, right.reshape(whole).sum_to_size(mine.shape))


def check_derivatives(case: OpCase) -> None:
    """First and second derivatives against finite differences; every subset of inputs may want a gradient."""
    inputs = [x.requires_grad_() for x in case.inputs((3, 5), torch.float64, seed=1)]
    assert torch.autograd.gradcheck(case.function, inputs)
    assert torch.autograd.gradgradcheck(case.function, inputs)
    # inputs that depend on each other, as fused and language posteriors do
    leaf = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def tied(x: Tensor) -> Tensor:
        return case.function(*[(1 - 0.3 * i) * x for i in range(case.n_inputs - 1)], x)

    assert torch.autograd.gradgradcheck(tied, [leaf])
    plain = torch.autograd.grad(tied(leaf).sum(), leaf)[0]
    torch.testing.assert_close(torch.autograd.grad(tied(leaf).sum(), leaf, create_graph=True)[0], plain)
    out = case.function(*inputs)
    batched = torch.autograd.grad(out, inputs, torch.eye(3, dtype=torch.float64), is_grads_batched=True)
    one_by_one = [torch.autograd.grad(case.function(*inputs), inputs, g) for g in torch.eye(3, dtype=torch.float64)]
    for together, each in zip(batched, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(together, torch.stack(each))
    everything = _gradients(case.function, inputs, torch.ones(3, dtype=torch.float64))
    for wanted in range(1, 2**case.n_inputs):
        leaves = [x.detach().requires_grad_(bool(wanted >> i & 1)) for i, x in enumerate(inputs)]
        case.function(*leaves).sum().backward()
        for leaf, right in zip(leaves, everything, strict=True):
            assert leaf.grad is None if not leaf.requires_grad else torch.equal(leaf.grad, right)


def check_transforms(case: OpCase) -> None:
    """torch.func and forward mode give what the reference gives."""
    inputs = tuple(case.inputs((3, 5), torch.float64))
    tangents = tuple(case.inputs((3, 5), torch.float64, seed=9))
    everything = tuple(range(case.n_inputs))
    pairs = []
    for function in (case.function, case.reference):
        jacobian = torch.func.jacrev(function, everything)(*inputs)
        hessian = torch.func.hessian(function, 0)(*inputs)
        each = torch.func.vmap(lambda *x, f=function: f(*(t[None] for t in x))[0])(*inputs)
        with torch.autograd.forward_ad.dual_level():
            duals = [torch.autograd.forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
            tangent = torch.autograd.forward_ad.unpack_dual(function(*duals)).tangent
        pairs.append([torch.func.jvp(function, inputs, tangents), jacobian, hessian, each, tangent])
    torch.testing.assert_close(*pairs)

    torch._dynamo.reset()
    tangent = torch.compile(lambda *x: torch.func.jvp(case.function, x, tangents)[1], fullgraph=True, backend="eager")
    torch.testing.assert_close(tangent(*inputs), pairs[1][0][1])


def check_registration(case: OpCase) -> None:
    """torch.library.opcheck, all four checks, with and without gradients, size 0 included."""
    for size in [(4, 6), (0, 6), (4, 0)]:
        for wants_grad in (False, True):
            inputs = [x.requires_grad_(wants_grad) for x in case.inputs(size, torch.float32)]
            torch.library.opcheck(case.operator, (*inputs, *case.options))


def check_compile(case: OpCase) -> None:
    """No graph break, and at most three compilations over twenty batch sizes (0 and 1 apart), gradients included."""
    torch._dynamo.reset()
    compilations = 0

    def counting_backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    compiled = torch.compile(case.function, fullgraph=True, backend=counting_backend)
    sizes = np.random.default_rng(0).integers(2, 300, 20)
    for size in sizes:
        inputs = case.inputs((int(size), 24), torch.float32, seed=int(size))
        assert torch.equal(compiled(*inputs), case.function(*inputs))
    assert compilations <= 3

    end_to_end = torch.compile(case.function, fullgraph=True, backend="aot_eager", dynamic=True)
    inputs = case.inputs((17, 24), torch.float32)
    grad = _grad_output(17, torch.float32)
    for mine, right in zip(_gradients(end_to_end, inputs, grad), _gradients(case.function, inputs, grad), strict=True):
        assert torch.equal(mine, right)


def check_determinism(case: OpCase) -> None:
    """The same bits on every run, for one and two threads, and for any split of the batch."""
    threads = torch.get_num_threads()
    inputs = case.inputs((700, 129), torch.float32, seed=3)
    grad = _grad_output(700, torch.float32)
    value, gradients = case.function(*inputs), _gradients(case.function, inputs, grad)
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            assert torch.equal(case.function(*inputs), value)
            assert all(map(torch.equal, _gradients(case.function, inputs, grad), gradients))
    finally:
        torch.set_num_threads(threads)
    for size in (1, 2, 7, 300):
        parts = zip(*(x.split(size) for x in inputs), grad.split(size), strict=True)
        for start, (*part, part_grad) in zip(range(0, 700, size), parts, strict=True):
            rows = slice(start, start + size)
            assert torch.equal(case.function(*part), value[rows])
            mine = _gradients(case.function, part, part_grad)
            assert all(torch.equal(m, g[rows]) for m, g in zip(mine, gradients, strict=True))


def check_nan_stays_in_its_row(case: OpCase) -> None:
    """NaN in, NaN out of that row alone, whichever input it sits in and wherever in the row."""
    for which in range(case.n_inputs):
        for column in (0, 31, 40):
            inputs = case.inputs((6, 41), torch.float32)
            clean = case.function(*inputs)
            inputs[which][2, column] = float("nan")
            result = case.function(*inputs)
            assert result[2].isnan()
            others = torch.arange(6) != 2
            assert torch.equal(result[others], clean[others])


def check_extremes(case: OpCase) -> None:
    """From inputs whose exponentials leave float32: the float64 value where it fits, +inf beyond, never NaN."""
    values = torch.tensor([0.0, 0.5, 1.0, -1.0, 60.0, -60.0, 89.0, -89.0, 170.0, -170.0, 2.0**20])
    rows = [x.reshape(-1, 1) for x in torch.meshgrid(*[values] * case.n_inputs, indexing="ij")]
    result = case.function(*rows)
    exact = case.reference(*(x.double() for x in rows))
    limit = torch.finfo(torch.float32).max
    known = exact.isfinite()  # where float64 is left, too, there is no oracle
    assert not result.isnan().any()
    fits = known & (exact < 0.999 * limit)
    torch.testing.assert_close(result[fits].double(), exact[fits], rtol=2e-5, atol=1e-30)
    assert result[known & (exact > 1.001 * limit)].isinf().all()


def check_autocast(case: OpCase) -> None:
    """Under autocast 16-bit inputs become float32, mixed ones included; float64 stays."""
    for dtype in (torch.bfloat16, torch.float16):
        inputs = case.inputs((4, 33), dtype)
        wide = [x.float() for x in inputs]
        with torch.autocast(device_type(), dtype=dtype):
            assert case.function(*inputs).dtype == torch.float32
            assert torch.equal(case.function(wide[0], *inputs[1:]), case.function(*wide))
            assert case.function(*[x.double() for x in inputs]).dtype == torch.float64


def check_reductions(case: OpCase) -> None:
    """Mean and sum with a weight: value and gradients of float64, in every dtype, whatever gradient comes in."""
    for reduction, weight in (("mean", 1.0), ("sum", 1.0), ("mean", 0.3)):
        mine, plain = (
            functools.partial(f, reduction=reduction, weight=weight) for f in (case.function, case.reference)
        )
        sizes = SIZES[1:] if reduction == "sum" else [(7, 31)]
        for size in sizes:
            for dtype, tolerance in TOLERANCES:
                inputs = case.inputs(size, dtype, seed=2)
                exact = [x.double().cpu().requires_grad_() for x in inputs]
                leaves = [x.requires_grad_() for x in inputs]
                expected, result = plain(*exact), mine(*leaves)
                scale = case.magnitude(*exact).sum().item() * weight + 1e-30
                assert (result.dtype, result.shape, result.device) == (dtype, (), inputs[0].device)
                assert abs(result.item() - expected.item()) <= tolerance * scale
                for incoming in (1.0, -2.5):
                    grad = torch.tensor(incoming, dtype=dtype)
                    gradients = torch.autograd.grad(result, leaves, grad, retain_graph=True)
                    right = torch.autograd.grad(expected, exact, grad.double().cpu(), retain_graph=True)
                    for one, other in zip(gradients, right, strict=True):
                        bound = tolerance * (other.abs() + abs(incoming) * weight) + torch.finfo(dtype).smallest_normal
                        assert ((one.double().cpu() - other).abs() <= bound).all()
    _check_the_graph_of_a_reduction(case)


def _check_the_graph_of_a_reduction(case: OpCase) -> None:
    function = functools.partial(case.function, reduction="mean", weight=0.5)
    assert function(*case.inputs((0, 3), torch.float32)).isnan()  # as the mean of nothing
    with pytest.raises(ValueError, match="reduction must be one of 'none', 'mean', 'sum', got 'max'"):
        case.function(*case.inputs((2, 3), torch.float32), reduction="max")
    with pytest.raises(TypeError, match="weight must be a number, got str"):
        case.function(*case.inputs((2, 3), torch.float32), reduction="sum", weight="1")
    # several dimensions, layouts, and the weight of a loss that is not reduced
    batch = case.inputs((15, 33), torch.float32)
    torch.testing.assert_close(function(*(x.reshape(3, 5, 33) for x in batch)), 0.5 * case.function(*batch).mean())
    assert torch.equal(function(*(x.T.clone().T for x in batch)), function(*batch))
    assert torch.equal(case.function(*batch, weight=0.5), 0.5 * case.function(*batch))
    # second derivatives, batches of gradients, every subset of inputs
    inputs = [x.requires_grad_() for x in case.inputs((3, 5), torch.float64, seed=1)]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    once = torch.autograd.grad(function(*inputs), inputs)
    both = torch.autograd.grad(function(*inputs), inputs, torch.ones(2, dtype=torch.float64), is_grads_batched=True)
    assert all(torch.allclose(g, b[1], rtol=1e-12) for g, b in zip(once, both, strict=True))
    for wanted in range(1, 2**case.n_inputs):
        leaves = [x.detach().requires_grad_(bool(wanted >> i & 1)) for i, x in enumerate(inputs)]
        function(*leaves).backward()
        for leaf, right in zip(leaves, once, strict=True):
            assert leaf.grad is None if not leaf.requires_grad else torch.equal(leaf.grad, right)
    # a second time through the graph, after the first gradients were changed
    loss = function(*inputs)
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.zero_()
    assert all(map(torch.equal, torch.autograd.grad(loss, inputs), kept))
    # threads
    threads = torch.get_num_threads()
    many = [x.requires_grad_() for x in case.inputs((700, 129), torch.float32, seed=3)]
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            value = function(*many)
            results.append([value.detach(), *torch.autograd.grad(value, many)])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


def check_reductions_compile(case: OpCase) -> None:
    """Reduced inside a compiled function: no graph break, the same gradients."""
    function = functools.partial(case.function, reduction="mean", weight=0.5)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    inputs = [x.requires_grad_() for x in case.inputs((17, 24), torch.float32)]
    results = [torch.autograd.grad(f(*inputs), inputs) for f in (compiled, function)]
    torch.testing.assert_close(*results)
    operator = getattr(torch.ops.dmrec_ext, f"_{case.operator._schema.name.split('::')[1]}_reduced").default
    missing = len(operator._schema.arguments) - len(inputs) - 2
    if missing == len(case.options):  # those of others are encoded
        rows = case.inputs((5, 6), torch.float32)
        torch.library.opcheck(operator, (*rows, *case.options, 0.5, 2**case.n_inputs - 1))


SHARED_CHECKS = [
    check_sizes,
    check_random_shapes,
    check_layouts,
    check_broadcasting,
    check_derivatives,
    check_transforms,
    check_registration,
    check_compile,
    check_determinism,
    check_nan_stays_in_its_row,
    check_extremes,
    check_autocast,
    check_reductions,
    check_reductions_compile,
]

"""multinomial_nll against the dense softmax."""

import pytest
import torch

from dmrec_ext import LOGITS_BUDGET, Csr, multinomial_nll, multinomial_terms, reference, use_reference
from tests.op_testing import device_type, extra_bytes


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


@pytest.fixture(params=[LOGITS_BUDGET, 0], ids=["saved", "tiled"])
def budget(request):
    """Logits saved for the backward, or formed again."""
    return request.param


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 0, 2), (0, 5, 2), (5, 11, 0), (7, 401, 16), (3, 20_000, 5)])
def test_is_the_dense_loss_with_gradients(size, dtype, tolerance, budget, native):
    users, n_items, width = size
    hidden, weight, bias = (torch.randn(s).to(dtype) for s in ((users, width), (n_items, width), (n_items,)))
    dense = (torch.rand(users, n_items) < 0.05) * torch.rand(users, n_items)
    dense[: users // 3] = 0
    x = Csr.from_torch(dense)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]  # the reference runs on the CPU
    rows = -(dense.cpu().double() * torch.log_softmax(exact[0] @ exact[1].T + exact[2], 1)).sum(1)
    grad = torch.linspace(-1.5, 2.5, users)
    loss = multinomial_nll(*leaves[:2], x, leaves[2], reduction="none", logits_budget=budget)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double().cpu(), rows.detach(), rtol=tolerance, atol=tolerance)
    gradients = torch.autograd.grad(loss, leaves, grad.to(loss.dtype))
    for mine, right in zip(gradients, torch.autograd.grad(rows, exact, grad.cpu().double()), strict=True):
        assert mine.dtype == dtype
        assert (mine.double().cpu() - right).norm() <= tolerance * (1 + right.norm())


def test_every_subset_of_gradients(budget, native):
    hidden, weight, bias, dense = _case(torch.float32)
    x = Csr.from_torch(dense)
    whole = [t.detach().requires_grad_() for t in (hidden, weight, bias)]
    expected = torch.autograd.grad(multinomial_nll(*whole[:2], x, whole[2], logits_budget=budget), whole)
    for wanted in range(1, 8):
        leaves = [t.detach().requires_grad_(bool(wanted >> i & 1)) for i, t in enumerate((hidden, weight, bias))]
        loss = multinomial_nll(*leaves[:2], x, leaves[2], logits_budget=budget)
        loss.backward(retain_graph=True)
        for leaf, right in zip(leaves, expected, strict=True):
            assert leaf.grad is None if not leaf.requires_grad else torch.equal(leaf.grad, right)
        loss.backward()  # a second time
        assert all(torch.equal(t.grad, 2 * g) for t, g in zip(leaves, expected, strict=True) if t.requires_grad)


def test_further_derivatives_run_on_plain_torch():
    hidden, weight, bias, dense = _case(b=3, n=5)
    x = Csr.from_torch(dense[:, :5])
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    assert torch.autograd.gradgradcheck(lambda h, w, b: multinomial_nll(h, w, x, b), leaves)
    values = x.values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: multinomial_nll(hidden, weight, x._replace(values=v), bias), [values])


def test_registration(native):
    for size in [(4, 9, 3), (0, 9, 3), (4, 9, 0)]:
        hidden, weight, bias = (torch.randn(s, requires_grad=True) for s in (size[::2], size[1:], size[1:2]))
        x = Csr.from_torch((torch.rand(size[:2]) < 0.4).float())
        for save in (False, True):
            arguments = (hidden, weight, x.crow, x.col, x.values, bias, False, save)
            torch.library.opcheck(torch.ops.dmrec_ext.multinomial_terms.default, arguments)
    hidden, weight, bias, dense = _case(torch.float32)
    x = Csr.from_torch(dense)
    compiled = torch.compile(multinomial_nll, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(hidden, weight, x, bias), multinomial_nll(hidden, weight, x, bias))
    compiled = torch.compile(multinomial_terms, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(hidden, weight, x, bias), multinomial_terms(hidden, weight, x, bias))


@pytest.mark.cpu_only("tiles on a GPU are larger: tests/gpu has the bound there")
def test_no_matrix_of_users_and_items_beyond_the_budget(native):
    hidden, weight = torch.randn(512, 8, requires_grad=True), torch.randn(100_000, 8, requires_grad=True)
    x = Csr(torch.arange(513), torch.randint(0, 100_000, (512,)), None, 100_000)
    everything = 512 * 100_000 * 4
    gradients = (hidden.numel() + weight.numel()) * 4

    def step(**budget):
        return torch.autograd.grad(multinomial_nll(hidden, weight, x, **budget), (hidden, weight))

    for budget in ({}, {"logits_budget": everything}):  # within the budget: saved
        assert everything < extra_bytes(lambda b=budget: step(**b)) < everything + gradients + (20 << 20)
    for budget in (everything - 1, 0):
        assert extra_bytes(lambda b=budget: step(logits_budget=b)) < gradients + (20 << 20)
    with torch.no_grad():
        assert extra_bytes(lambda: multinomial_nll(hidden, weight, x)) < 20 << 20


@pytest.mark.parametrize("bf16", [False, True])
def test_the_budget_decides_what_is_saved_not_what_is_computed(bf16, native):
    hidden, weight, bias, dense = _case(torch.bfloat16 if bf16 else torch.float32, b=7, n=600, h=16)
    x, leaves = Csr.from_torch(dense), [t.requires_grad_() for t in (hidden, weight, bias)]
    needed = 7 * 600 * (2 if bf16 else 4)
    results = {}
    for budget in (None, needed, needed - 1, 0):
        saved = []

        def pack(tensor, saved=saved):
            saved.append(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            options = {} if budget is None else {"logits_budget": budget}
            loss = multinomial_nll(*leaves[:2], x, leaves[2], reduction="none", **options)
        assert ((7, 600) in saved) == (budget is None or budget >= needed)
        results[budget] = [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]
    for result in results.values():
        for mine, right in zip(result, results[None], strict=True):
            tolerance = 2e-2 if bf16 else 1e-6
            assert (mine - right).float().norm() <= tolerance * (1 + right.float().norm())
    assert LOGITS_BUDGET == 256 << 20


def test_products_in_bf16_stay_close(native):
    hidden, weight = torch.randn(64, 50, requires_grad=True), (0.2 * torch.randn(3000, 50)).requires_grad_()
    x = Csr.from_torch((torch.rand(64, 3000) < 0.01).float())
    loss = multinomial_nll(hidden, weight, x)
    with torch.autocast(device_type(), dtype=torch.bfloat16):
        near = multinomial_nll(hidden, weight, x)
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, loss, rtol=1e-3, atol=0)
    for mine, right in zip(*(torch.autograd.grad(v, (hidden, weight)) for v in (near, loss)), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - right).norm() < 6e-3 * right.norm()


@pytest.mark.cpu_only("on a GPU a look at the indices would wait for it; tests/simt has what happens there")
def test_the_raw_operator_reads_nothing_out_of_range(native):
    op = torch.ops.dmrec_ext.multinomial_terms
    hidden, weight, crow = torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1, 2])
    for bad in ([0, 4], [-1, 0]):
        with pytest.raises(RuntimeError, match="multinomial_nll: col must lie in"):
            op(hidden, weight, crow, torch.tensor(bad), None, None, False, False)
    col = torch.tensor([0, 3])
    _, log_sums, logits = op(hidden, weight, crow, col, None, None, False, True)
    back = torch.ops.dmrec_ext._multinomial_terms_backward
    for wrong in (logits[:, :2], logits.double(), logits.T):
        with pytest.raises(RuntimeError, match="multinomial_nll: logits must be those of the forward"):
            back(torch.ones(2, 2).double(), hidden, weight, crow, col, None, None, False, log_sums, wrong, 3)
    for wrong in (torch.ones(2, 2), torch.ones(1, 2).double(), torch.ones(2).double()):
        with pytest.raises(RuntimeError, match="multinomial_nll: grad"):
            back(wrong, hidden, weight, crow, col, None, None, False, log_sums, logits, 3)
    with pytest.raises(RuntimeError, match="there is no bias"):
        back(torch.ones(2, 2).double(), hidden, weight, crow, col, None, None, False, log_sums, logits, 7)


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


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ([0.0, 0.0, 0.0], [2.0**24] * 3),  # a common offset
        ([1000.0, 988.0, 987.0], [0.0] * 3),  # a target that has all the mass
        ([20.0, 4.0, 3.0], [0.0] * 3),
        ([-5.0, 1.0, 2.0], [1e5, 1e5, 1e5]),
    ],
)
def test_nothing_cancels(weight, bias, budget):
    x = Csr(torch.tensor([0, 1]), torch.tensor([0]), None, 3)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [torch.tensor(t, dtype=dtype, requires_grad=True) for t in ([[1.0]], [[w] for w in weight], bias)]
        loss = multinomial_nll(*leaves[:2], x, leaves[2], logits_budget=budget)
        results.append([loss.detach().double(), *(g.double() for g in torch.autograd.grad(loss, leaves))])
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-2, atol=1.5e-7 * max(map(abs, weight)) + 1e-7)


def test_shapes_are_checked_without_data():
    crow, col = torch.zeros(3, dtype=torch.int64, device="meta"), torch.zeros(0, dtype=torch.int64, device="meta")
    operator = torch.ops.dmrec_ext.multinomial_terms
    with pytest.raises(ValueError, match="multinomial_terms: hidden must have 2 dimensions, got 1"):
        operator(torch.zeros(2, device="meta"), torch.zeros(4, 2, device="meta"), crow, col, None, None, False, False)


def test_large_logits_stay_finite():
    x = Csr(torch.tensor([0, 1]), torch.tensor([1]), None, 2)
    loss = multinomial_nll(torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0]]), x)
    torch.testing.assert_close(loss, torch.tensor(2e4))


def test_under_autocast_the_softmax_is_float32():
    hidden, weight, bias, dense = _case(torch.float32)
    with torch.autocast(device_type(), dtype=torch.bfloat16):
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
    for function in (multinomial_nll, reference.multinomial_nll):
        with pytest.raises(ValueError, match="multinomial_nll: logits_budget must be at least 0, got -1"):
            function(hidden, weight, x, logits_budget=-1)
        for wrong in (1e9, True, None):
            with pytest.raises(TypeError, match="multinomial_nll: logits_budget must be an integer, got"):
                function(hidden, weight, x, logits_budget=wrong)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_class_indices_are_targets(reduction, dtype):
    hidden, weight, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((6, 4), (9, 4), (9,)))
    classes = torch.tensor([0, 8, 3, 3, 1, 8])
    mine = multinomial_nll(hidden, weight, classes, bias, reduction=reduction)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    right = torch.nn.functional.cross_entropy(logits, classes, reduction=reduction)
    torch.testing.assert_close(mine, right)
    grads = [torch.autograd.grad(loss.sum(), (hidden, weight, bias)) for loss in (mine, right)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    with use_reference():
        again = multinomial_nll(hidden, weight, classes, bias, reduction=reduction)
    torch.testing.assert_close(again, right)


@pytest.mark.parametrize(
    ("classes", "kind", "message"),
    [
        (torch.tensor([0, 1]), ValueError, r"x must have one class index per row of hidden \(3\), got \(2,\)"),
        (torch.tensor([[0, 1, 2]]), ValueError, "x must have one class index per row of hidden"),
        (torch.tensor([0.0, 1, 2]), TypeError, "x must be a Csr, or int64 class indices, got torch.float32"),
        (torch.tensor([0, 1, 5]), ValueError, "x"),
        (torch.tensor([0, 1, -1]), ValueError, "x"),
    ],
)
def test_bad_class_indices(classes, kind, message):
    device = torch.get_default_device()
    with pytest.raises(kind, match=message):
        multinomial_nll(torch.zeros(3, 2), torch.zeros(5, 2), classes.to(device))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("size", [(3, 0, 2), (0, 5, 2), (4, 1, 3), (7, 401, 16), (3, 20_000, 5)])
def test_terms_are_the_sums_over_items(size, dtype, tolerance, budget):
    users, n_items, width = size
    hidden, weight, bias = (torch.randn(s).to(dtype) for s in ((users, width), (n_items, width), (n_items,)))
    dense = (torch.rand(users, n_items) < 0.05) * torch.rand(users, n_items)
    dense[: users // 3] = 0  # nothing of this part: the gradient of S is not 0 there
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    terms = multinomial_terms(*leaves[:2], Csr.from_torch(dense), leaves[2], logits_budget=budget)
    assert terms.dtype == torch.float64
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]
    logits = exact[0] @ exact[1].T + exact[2]
    right = torch.stack([torch.logsumexp(logits, 1), (dense.cpu().double() * logits).sum(1)])
    magnitude = torch.stack([logits.abs().amax(1) if n_items else logits.sum(1), (dense.cpu() * logits.abs()).sum(1)])
    assert ((terms.cpu() - right).nan_to_num(0).abs() <= tolerance * (1 + magnitude)).all()
    grad = torch.randn(2, users, dtype=torch.float64)
    gradients = torch.autograd.grad(terms, leaves, grad)
    for mine, expected in zip(gradients, torch.autograd.grad(right, exact, grad.cpu()), strict=True):
        assert mine.dtype == dtype
        assert (mine.double().cpu() - expected).norm() <= tolerance * (1 + expected.norm())


@pytest.mark.parametrize("n_parts", [2, 7, 16])
def test_terms_of_parts_are_those_of_the_whole(n_parts, budget):
    hidden, weight, bias, dense = _case(torch.float64)
    weight, whole = weight * 50, [t.requires_grad_() for t in (hidden, weight * 50, bias)]
    loss = multinomial_nll(*whole[:2], Csr.from_torch(dense), whole[2], reduction="none", logits_budget=budget)
    parts = [t.detach().requires_grad_() for t in whole]
    size = -(-len(bias) // n_parts)  # the last parts are short, or empty
    log_sums, of_targets = [], []
    for first in range(0, n_parts * size, size):
        rows = slice(first, first + size)
        x = Csr.from_torch(dense[:, rows])
        s, t = multinomial_terms(parts[0], parts[1][rows], x, parts[2][rows], logits_budget=budget)
        log_sums.append(s)
        of_targets.append(t)
    log_sum = torch.logsumexp(torch.stack(log_sums), 0)
    together = dense.double().sum(1) * log_sum - torch.stack(of_targets).sum(0)
    torch.testing.assert_close(together, loss, rtol=1e-11, atol=1e-9)
    grad = torch.linspace(-1, 2, len(loss), dtype=loss.dtype)
    for mine, right in zip(
        *(torch.autograd.grad(v, of, grad) for v, of in ((together, parts), (loss, whole))), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-10)


def test_terms_of_large_logits_and_of_none():
    x = Csr(torch.tensor([0, 1, 1]), torch.tensor([1]), None, 2)
    terms = multinomial_terms(torch.tensor([[1e4], [-1e4]]), torch.tensor([[1.0], [-1.0]]), x)
    assert terms.tolist() == [[1e4, 1e4], [-1e4, 0]]
    nothing = multinomial_terms(
        torch.ones(3, 2), torch.ones(0, 2), Csr(torch.zeros(4, dtype=torch.int64), x.col[:0], None, 0)
    )
    assert nothing.tolist() == [[-torch.inf] * 3, [0] * 3]


def test_terms_are_differentiable_twice_each_by_itself():
    hidden, weight, bias, dense = _case()
    x, leaves = Csr.from_torch(dense), [t.requires_grad_() for t in (hidden, weight, bias)]
    for row in (0, 1):
        assert torch.autograd.gradcheck(lambda *of, row=row: multinomial_terms(*of[:2], x, of[2])[row], leaves)
    assert torch.autograd.gradgradcheck(lambda *of: multinomial_terms(*of[:2], x, of[2]), leaves)


def test_errors_of_the_terms_have_their_name():
    hidden, weight, _, dense = _case()
    x = Csr.from_torch(dense)
    for function in (multinomial_terms, reference.multinomial_terms):
        with pytest.raises(ValueError, match=r"multinomial_terms: weight must have the width of hidden \(4\), got 3"):
            function(hidden, weight[:, :3], x)
        with pytest.raises(TypeError, match="multinomial_terms: x must be a Csr, or int64 class indices"):
            function(hidden, weight, torch.ones(5))
        with pytest.raises(ValueError, match="multinomial_terms: logits_budget must be at least 0, got -1"):
            function(hidden, weight, x, logits_budget=-1)

"""A second device type with values: torch's lazy tensors, which compute on the CPU. It has no native kernels.

This device is not reliable enough for more (torch 2.13): ``chunk`` returns tensors that no other operation accepts, so
no model can run there, and a subtraction of two sums of the same tensors is wrong in the composite prior, which is
missing here.
"""

import pytest
import torch

import dmrec_ext
from dmrec_ext import Csr

B, N, H, K = 4, 9, 3, 2


def _rows(count):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, generator=generator) for _ in range(count)]


def _sparse(values=True):
    crow, col = torch.tensor([0, 2, 3, 3, 6]), torch.tensor([0, 8, 4, 1, 2, 3])
    return Csr(crow, col, torch.arange(1.0, 7.0) if values else None, N)


def _quantized_and_loss(x, codebooks):
    codes, quantized, loss = dmrec_ext.residual_quantize(x, codebooks)
    return quantized.sum() + loss.sum(), codes


ITEMS = torch.randn(N, H, generator=torch.Generator().manual_seed(1))
BIAS = torch.linspace(-1, 1, N)
SCORES = torch.randn(B, N, generator=torch.Generator().manual_seed(2))
CASES = {
    "gaussian_kl": (dmrec_ext.gaussian_kl, _rows(4), {}),
    "gaussian_w2": (dmrec_ext.gaussian_w2, _rows(4), {}),
    "matching_loss": (dmrec_ext.matching_loss, _rows(4), {"strategy": "mddm", "beta": 0.4}),
    "csr_aggregate": (dmrec_ext.csr_aggregate, [_sparse(), ITEMS, ITEMS[0]], {}),
    "multinomial_nll": (dmrec_ext.multinomial_nll, [_rows(1)[0], ITEMS, _sparse(), BIAS], {"reduction": "none"}),
    "residual_quantize": (_quantized_and_loss, [_rows(1)[0], ITEMS.view(3, -1, H)], {}),
    "code_alignment": (dmrec_ext.code_alignment, [ITEMS.view(3, -1, H), ITEMS.flip(0).view(3, -1, H)], {}),
    "rank_topk": (dmrec_ext.rank_topk, [_rows(1)[0], ITEMS, K], {"bias": BIAS, "exclude": _sparse(values=False)}),
    "rank_scores": (dmrec_ext.rank_scores, [SCORES, K], {"exclude": _sparse()}),
    "merge_topk": (dmrec_ext.merge_topk, [SCORES, torch.arange(B * N).view(B, N), K], {}),
}


def _run(stem, device):
    """Results and gradients of an operator, on the CPU again."""
    function, arguments, options = CASES[stem]
    leaves = []

    def on_device(value):
        if isinstance(value, Csr):
            return value.to(device)
        if not isinstance(value, torch.Tensor):
            return value
        value = value.to(device)
        if value.is_floating_point():
            leaves.append(value.detach().requires_grad_())
            return leaves[-1]
        return value

    result = function(*map(on_device, arguments), **{name: on_device(value) for name, value in options.items()})
    results = result if isinstance(result, tuple) else (result,)
    assert all(each.device.type == device.type for each in results)
    if results[0].requires_grad:
        results = (*results, *torch.autograd.grad(results[0].sum(), leaves))
    return [each.detach().cpu() for each in results]


@pytest.mark.parametrize("stem", CASES)
def test_operators_run_on_the_reference_there(stem, lazy_device):
    if stem in dmrec_ext.OPERATORS:
        assert not dmrec_ext.native_path(stem, "lazy").native
    with dmrec_ext.use_reference():
        expected = _run(stem, torch.device("cpu"))
        found = _run(stem, lazy_device)
    assert len(found) == len(expected) > 1
    for each in (found, _run(stem, lazy_device)):
        for mine, right in zip(each, expected, strict=True):
            torch.testing.assert_close(mine, right)

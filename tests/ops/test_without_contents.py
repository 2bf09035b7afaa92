"""Every operator on tensors without contents (the meta device, FakeTensorMode): shapes, dtypes, gradients.

What reads a value there fails, so this also shows that an operator on a GPU makes the host wait for nothing.
"""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import dmrec_ext
from dmrec_ext import Csr

B, N, H, K = 4, 9, 3, 2


def _rows(make):
    return [make(B, H) for _ in range(4)]


def _sparse(make, values=True):
    crow, col = make(B + 1, dtype=torch.int64), make(6, dtype=torch.int64)
    if not crow.is_meta and not isinstance(crow, FakeTensor):
        crow, col = torch.tensor([0, 2, 3, 3, 6]), torch.tensor([0, 8, 4, 1, 2, 3])
    return Csr(crow, col, make(6) if values else None, N)


CASES = {
    "gaussian_kl": lambda make: (dmrec_ext.gaussian_kl, _rows(make), {}),
    "gaussian_w2": lambda make: (dmrec_ext.gaussian_w2, _rows(make), {"squared": True}),
    "composite_prior": lambda make: (dmrec_ext.composite_prior, _rows(make), {"interpolation": "moment"}),
    "matching_loss": lambda make: (dmrec_ext.matching_loss, _rows(make), {"strategy": "godm", "beta": 0.1}),
    "matching_loss, mean": lambda make: (
        dmrec_ext.matching_loss,
        _rows(make),
        {"strategy": "godm", "beta": 0.1, "reduction": "mean"},
    ),
    "csr_aggregate": lambda make: (dmrec_ext.csr_aggregate, [_sparse(make), make(N, H), make(H)], {}),
    "csr_aggregate, float32 over float16": lambda make: (
        dmrec_ext.csr_aggregate,
        [_sparse(make), make(N, H, dtype=torch.float16), make(H)],
        {"dtype": torch.float32},
    ),
    "multinomial_nll": lambda make: (
        dmrec_ext.multinomial_nll,
        [make(B, H), make(N, H), _sparse(make), make(N)],
        {"reduction": "none"},
    ),
    "residual_quantize": lambda make: (_quantized_and_loss, [make(B, H), make(K, N, H)], {}),
    "code_alignment": lambda make: (dmrec_ext.code_alignment, [make(B, K, N), make(B, K, N)], {}),
    "code_alignment, leave one out": lambda make: (
        dmrec_ext.code_alignment,
        [make(B, K, N), make(B, K, N)],
        {"negative": "leave_one_out", "direction": "symmetric"},
    ),
    "rank_topk": lambda make: (
        dmrec_ext.rank_topk,
        [make(B, H), make(N, H), K],
        {"bias": make(N), "exclude": _sparse(make, values=False)},
    ),
    "rank_scores": lambda make: (dmrec_ext.rank_scores, [make(B, N), K], {"exclude": _sparse(make)}),
    "merge_topk": lambda make: (dmrec_ext.merge_topk, [make(B, N), make(B, N, dtype=torch.int64), K], {}),
}


def _quantized_and_loss(x, codebooks):
    codes, quantized, loss = dmrec_ext.residual_quantize(x, codebooks)
    return quantized.sum() + loss.sum(), codes


def _described(tensors):
    return [(tuple(t.shape), t.dtype) for t in tensors]


def _run(stem, device):
    """Shapes and dtypes of what an operator returns and of its gradients."""
    leaves = []

    def make(*shape, dtype=torch.float32):
        tensor = torch.zeros(shape, dtype=dtype, device=device)
        if dtype.is_floating_point:
            leaves.append(tensor.requires_grad_())
        return tensor

    function, arguments, options = CASES[stem](make)
    result = function(*arguments, **options)
    results = result if isinstance(result, tuple) else (result,)
    assert all(t.device == torch.device(device) for t in results)
    gradients = []
    if results[0].requires_grad:
        gradients = torch.autograd.grad(results[0].sum(), leaves)
    return _described(results), _described(gradients)


@pytest.mark.parametrize(("device", "fake"), [("meta", False), ("cpu", True)])
@pytest.mark.parametrize("stem", CASES)
def test_shapes_without_contents(stem, device, fake):
    expected = _run(stem, "cpu")
    assert len(expected[1]) >= 2 or "rank" in stem or "merge" in stem
    with FakeTensorMode() if fake else nullcontext():
        assert _run(stem, device) == expected


def test_every_operator_has_a_case():
    assert set(dmrec_ext.OPERATORS) < set(CASES)

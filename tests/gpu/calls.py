"""A call of every public operator in each of its forms, on torch's default device.

Sizes are odd and small. Nothing is read back from the device, so the calls also run on fake tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dmrec_ext
from dmrec_ext import Csr

ROWS, ITEMS, WIDTH, EACH = 7, 41, 13, 3


class Call(NamedTuple):
    """``function(*inputs)``; where ``differentiable``, each input that is floating point has a gradient."""

    function: Callable[..., Any]
    inputs: list[Tensor]
    differentiable: bool = True
    waits: bool = False  # for the device, as plain torch does in places

    def results(self) -> list[Tensor]:
        """The outputs."""
        outputs = self.function(*self.inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]

    def gradients(self) -> list[Tensor]:
        """Of the sum of the output's squares."""
        leaves = [x.detach().requires_grad_() for x in self.inputs]
        return list(torch.autograd.grad(self.function(*leaves).square().sum(), leaves))


def sparse(values: Tensor | None = None) -> Csr:
    """(ROWS, ITEMS) with EACH entries a row."""
    col = (5 * torch.arange(EACH)).repeat(ROWS) + torch.arange(ROWS).repeat_interleave(EACH, output_size=ROWS * EACH)
    return Csr(EACH * torch.arange(ROWS + 1), col, values, ITEMS)


def calls(dtype: torch.dtype = torch.float32) -> dict[str, Call]:
    """By name."""

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype)

    def rows(name: str, n: int = 4, **options: Any) -> Call:
        function = getattr(dmrec_ext, name)
        return Call(lambda *x: function(*x, **options), [normal(ROWS, WIDTH) for _ in range(n)])

    made = {"gaussian_kl": rows("gaussian_kl"), "gaussian_kl, standard normal": rows("gaussian_kl", 2)}
    made["gaussian_w2"] = rows("gaussian_w2", eps=0.1)
    for interpolation in ("log_linear", "linear", "moment"):
        made[f"composite_prior, {interpolation}"] = rows("composite_prior", interpolation=interpolation)
    for strategy in ("godm", "cpdm", "mddm"):
        for fusion in ("add", "collaborative"):
            options = {"strategy": strategy, "beta": 0.3, "fusion": fusion, "eps": 0.1}
            made[f"matching_loss, {strategy} {fusion}"] = rows("matching_loss", **options)

    for name, options in {"gaussian_kl": {}, "matching_loss": {"strategy": "godm", "beta": 0.3, "eps": 0.1}}.items():
        made[f"{name}, mean"] = rows(name, **options, reduction="mean", weight=0.5)

    x, dense = sparse(), normal(ITEMS, WIDTH)
    transpose = x.transpose()
    values, bias = normal(ROWS * EACH), normal(WIDTH)
    made["csr_aggregate"] = Call(lambda d: dmrec_ext.csr_aggregate(x, d), [dense])
    made["csr_aggregate, transpose"] = Call(lambda d: dmrec_ext.csr_aggregate(x, d, transpose=transpose), [dense])
    made["csr_aggregate, values and bias"] = Call(
        lambda v, d, b: dmrec_ext.csr_aggregate(sparse(v), d, b), [values, dense, bias]
    )
    in_16_bits, of_entries, single = dense.to(torch.float16), values.float(), torch.float32
    made["csr_aggregate, float32 over float16"] = Call(
        lambda v, d, b: dmrec_ext.csr_aggregate(sparse(v), d, b, dtype=single), [of_entries, in_16_bits, bias.float()]
    )
    made["csr_dot"] = Call(lambda r, d: dmrec_ext.csr_dot(x, r, d), [normal(ROWS, WIDTH), dense])
    made["csr_dot, values"] = Call(
        lambda v, r, d: dmrec_ext.csr_dot(sparse(v), r, d), [values, normal(ROWS, WIDTH), dense]
    )
    hidden, of_items = normal(ROWS, WIDTH), normal(ITEMS)
    for reduction in ("mean", "none"):
        made[f"multinomial_nll, {reduction}"] = Call(
            lambda h, w, b, r=reduction: dmrec_ext.multinomial_nll(h, w, x, b, reduction=r), [hidden, dense, of_items]
        )
    made["multinomial_terms"] = Call(lambda h, w, b: dmrec_ext.multinomial_terms(h, w, x, b), [hidden, dense, of_items])
    books, latents = normal(2, 5, WIDTH), normal(ROWS, WIDTH)
    for kind in ("first", "all", "full"):
        made[f"residual_quantize, {kind}"] = Call(
            lambda x, c, k=kind: dmrec_ext.residual_quantize(x, c, residual_gradient=k)[2], [latents, books]
        )
    made["residual_quantize, all results"] = Call(dmrec_ext.residual_quantize, [latents, books], False)
    target, prediction = normal(ROWS, 2, ITEMS), normal(ROWS, 2, ITEMS)
    for negative in ("batch_mean", "leave_one_out"):
        made[f"code_alignment, {negative}"] = Call(
            lambda y, p, n=negative: dmrec_ext.code_alignment(y, p, negative=n, direction="symmetric"),
            [target, prediction],
        )
    made["rank_topk"] = Call(lambda q, w: dmrec_ext.rank_topk(q, w, 5), [hidden, dense], False)
    for precision in ("float32", "bf16"):
        made[f"rank_topk, bias and exclude, {precision}"] = Call(
            lambda q, w, b, p=precision: dmrec_ext.rank_topk(q, w, 5, bias=b, exclude=x, precision=p),
            [hidden, dense, of_items],
            False,
        )
    scores, ids = normal(ROWS, ITEMS), torch.arange(ITEMS).expand(ROWS, ITEMS)
    made["rank_scores"] = Call(lambda s: dmrec_ext.rank_scores(s, 5, exclude=x), [scores], False, True)
    made["merge_topk"] = Call(lambda s: dmrec_ext.merge_topk(s, ids, 5), [scores], False, True)
    return made


NAMES = list(calls())

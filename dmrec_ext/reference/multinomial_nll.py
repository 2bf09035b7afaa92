"""Multinomial negative log-likelihood of sparse targets: Eq. 19's first term, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import autocast_enabled, check_choice, check_csr, check_like, check_size, check_tensor, fail
from ..csr import Csr
from .gaussian_kl import in_arithmetic_type

REDUCTIONS = ("mean", "sum", "none")
LOGITS_BUDGET = 256 << 20
"""Default of ``logits_budget`` in `dmrec_ext.multinomial_nll`, in bytes: 256 MiB."""


def multinomial_nll(
    hidden: Tensor,
    weight: Tensor,
    x: Csr | Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str = "mean",
    logits_budget: int = LOGITS_BUDGET,
) -> Tensor:
    """Reference of `dmrec_ext.multinomial_nll`; forms the (B, N) logits, whatever ``logits_budget`` allows."""
    x = targets("multinomial_nll", x, hidden, weight)
    checked_nll_inputs("multinomial_nll", hidden, weight, x, bias, logits_budget)
    check_choice("multinomial_nll", "reduction", reduction, REDUCTIONS)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    row = x.row_of_entry()
    picked = torch.log_softmax(in_arithmetic_type(logits), dim=1)[row, x.col]
    if x.values is not None:
        picked = picked * x.values.to(picked.dtype)
    loss = torch.zeros(x.n_rows, dtype=picked.dtype, device=picked.device).index_add(0, row, -picked)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def multinomial_terms(
    hidden: Tensor, weight: Tensor, x: Csr | Tensor, bias: Tensor | None = None, *, logits_budget: int = LOGITS_BUDGET
) -> Tensor:
    """Reference of `dmrec_ext.multinomial_terms`; forms the (B, N) logits, whatever ``logits_budget`` allows."""
    x = targets("multinomial_terms", x, hidden, weight)
    checked_nll_inputs("multinomial_terms", hidden, weight, x, bias, logits_budget)
    logits = torch.nn.functional.linear(hidden, weight, bias).double()
    row = x.row_of_entry()
    of_entries = logits[row, x.col] if x.values is None else logits[row, x.col] * x.values.double()
    of_targets = torch.zeros(x.n_rows, dtype=torch.float64, device=logits.device).index_add(0, row, of_entries)
    return torch.stack([torch.logsumexp(logits, 1), of_targets])


def targets(op: str, x: Csr | Tensor, hidden: Tensor, weight: Tensor) -> Csr:
    """``x``, or class indices (B,) as a matrix with a one in each row."""
    if not isinstance(x, Tensor):
        return x
    check_tensor(op, "hidden", hidden, 2)
    check_tensor(op, "weight", weight, 2)
    if x.dtype != torch.int64:
        fail(op, "x", "be a Csr, or int64 class indices", x.dtype, TypeError)
    if x.dim() != 1 or x.shape[0] != hidden.shape[0]:
        fail(op, "x", f"have one class index per row of hidden ({hidden.shape[0]})", tuple(x.shape))
    rows = torch.arange(x.shape[0] + 1, device=x.device)
    return Csr(rows, x, None, weight.shape[0])


def checked_nll_inputs(
    op: str, hidden: Tensor, weight: Tensor, x: Csr, bias: Tensor | None, logits_budget: int
) -> None:
    """Checks the arguments that `multinomial_nll` and `multinomial_terms` share."""
    check_tensor(op, "hidden", hidden, 2)
    check_projection(op, "weight", weight, bias, "hidden", hidden)
    check_csr(op, "x", x, n_rows=hidden.shape[0], n_cols=weight.shape[0], device=hidden.device)
    check_size(op, "logits_budget", logits_budget, 0)


def check_projection(
    op: str, argument: str, weight: Tensor, bias: Tensor | None, model_argument: str, model: Tensor
) -> None:
    """``weight`` (N, H) and ``bias`` (N,) fit the (B, H) tensor ``model``; dtypes may differ under autocast."""
    check_tensor(op, argument, weight, 2)
    autocast = autocast_enabled(model.device.type)
    if weight.shape[1] != model.shape[1]:
        fail(op, argument, f"have the width of {model_argument} ({model.shape[1]})", weight.shape[1])
    if not autocast:
        check_like(op, argument, weight, model_argument, model)
    if bias is not None:
        check_tensor(op, "bias", bias, 1)
        if bias.shape[0] != weight.shape[0]:
            fail(op, "bias", f"have one value per row of {argument} ({weight.shape[0]})", bias.shape[0])
        if not autocast:
            check_like(op, "bias", bias, model_argument, model)

"""The matching losses GODM, CPDM and MDDM: Eq. 10, 13 and 15, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check_choice, check_tensor, checked_rows, fail
from .composite_prior import check_composite, composite
from .gaussian_kl import in_arithmetic_type, kl
from .gaussian_w2 import check_eps, w2
from .reduction import check_reduction, reduce_rows

STRATEGIES = ("godm", "cpdm", "mddm", "kl")
FUSIONS = ("add", "collaborative")


def matching_loss(
    mu_c: Tensor,
    logvar_c: Tensor,
    mu_l: Tensor,
    logvar_l: Tensor,
    *,
    strategy: str,
    beta: float | Tensor,
    alpha: float = 0.5,
    interpolation: str = "log_linear",
    squared: bool = False,
    eps: float = 0.0,
    fusion: str = "add",
    reduction: str = "none",
    weight: float = 1.0,
) -> Tensor:
    """Reference of `dmrec_ext.matching_loss`."""
    rows = checked_rows("matching_loss", mu_c=mu_c, logvar_c=logvar_c, mu_l=mu_l, logvar_l=logvar_l)
    check_matching(rows[0].device, strategy, beta, alpha, interpolation, eps, fusion)
    check_reduction("matching_loss", reduction, weight)
    collaborative, language = (pair := list(map(in_arithmetic_type, rows)))[:2], pair[2:]
    fused = [c + v for c, v in zip(collaborative, language, strict=True)] if fusion == "add" else collaborative
    regulariser = kl(*fused)
    match strategy:
        case "godm":
            loss = regulariser + beta * w2(*collaborative, *language, squared=squared, eps=eps)
        case "cpdm":
            loss = regulariser + beta * composite(*fused, *language, alpha=alpha, interpolation=interpolation)
        case "mddm":
            loss = beta * regulariser + (1 - beta) * kl(*fused, *language)
        case _:
            loss = regulariser + beta * kl(*fused, *language)
    return reduce_rows(loss, reduction, weight).to(rows[0].dtype)


def check_matching(
    device: torch.device | None,
    strategy: str,
    beta: float | Tensor,
    alpha: float,
    interpolation: str,
    eps: float,
    fusion: str,
) -> None:
    """The options of a matching loss are known and in range, and ``beta`` is on ``device`` if it is a tensor."""
    op = "matching_loss"
    check_choice(op, "strategy", strategy, STRATEGIES)
    check_choice(op, "fusion", fusion, FUSIONS)
    check_composite(op, alpha, interpolation)
    check_eps(op, eps)
    if isinstance(beta, Tensor):
        check_tensor(op, "beta", beta, 0)
        if beta.device != device:
            fail(op, "beta", f"be on the device of mu_c ({device})", beta.device)
    elif not isinstance(beta, (int, float)):
        fail(op, "beta", "be a number or a tensor of 0 dimensions", type(beta).__name__, TypeError)

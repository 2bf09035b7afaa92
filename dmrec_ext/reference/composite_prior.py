"""Divergence to the composite prior: Eq. 11 and 12, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._checks import check_choice, check_fraction, checked_rows
from .gaussian_kl import in_arithmetic_type, kl
from .reduction import check_reduction, reduce_rows

INTERPOLATIONS = ("log_linear", "linear", "moment")


def composite_prior(
    mu_q: Tensor,
    logvar_q: Tensor,
    mu_p: Tensor,
    logvar_p: Tensor,
    *,
    alpha: float = 0.5,
    interpolation: str = "log_linear",
    reduction: str = "none",
    weight: float = 1.0,
) -> Tensor:
    """Reference of `dmrec_ext.composite_prior`."""
    check_composite("composite_prior", alpha, interpolation)
    rows = checked_rows("composite_prior", mu_q=mu_q, logvar_q=logvar_q, mu_p=mu_p, logvar_p=logvar_p)
    check_reduction("composite_prior", reduction, weight)
    values = composite(*map(in_arithmetic_type, rows), alpha=alpha, interpolation=interpolation)
    return reduce_rows(values, reduction, weight).to(rows[0].dtype)


def check_composite(op: str, alpha: float, interpolation: str) -> None:
    """The options of the composite prior are in range."""
    check_fraction(op, "alpha", alpha)
    check_choice(op, "interpolation", interpolation, INTERPOLATIONS)


def composite(
    mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor, *, alpha: float, interpolation: str
) -> Tensor:
    """The equations, unchecked: KL(p || c) + KL(q || c), c between q (weight alpha) and p."""
    mu_c = alpha * mu_q + (1 - alpha) * mu_p
    if interpolation == "log_linear":
        logvar_c = alpha * logvar_q + (1 - alpha) * logvar_p
    else:
        log_q, log_p = (math.log(weight) if weight > 0 else -math.inf for weight in (alpha, 1 - alpha))
        logvar_c = torch.logaddexp(logvar_q + log_q, logvar_p + log_p)  # the variances alone leave the range
        if interpolation == "moment":
            scale = torch.exp(-0.25 * logvar_c)
            share = ((mu_q - mu_p) * scale * scale).square()
            logvar_c = logvar_c + torch.log1p(alpha * (1 - alpha) * share)
    return kl(mu_p, logvar_p, mu_c, logvar_c) + kl(mu_q, logvar_q, mu_c, logvar_c)

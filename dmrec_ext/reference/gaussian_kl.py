"""KL divergence of diagonal Gaussians: Eq. 2 and 14, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import checked_rows, fail
from .reduction import check_reduction, reduce_rows


def gaussian_kl(
    mu_q: Tensor,
    logvar_q: Tensor,
    mu_p: Tensor | None = None,
    logvar_p: Tensor | None = None,
    *,
    reduction: str = "none",
    weight: float = 1.0,
) -> Tensor:
    """Reference of `dmrec_ext.gaussian_kl`."""
    rows = checked_kl_inputs(mu_q, logvar_q, mu_p, logvar_p)
    check_reduction("gaussian_kl", reduction, weight)
    return reduce_rows(kl(*map(in_arithmetic_type, rows)), reduction, weight).to(rows[0].dtype)


def checked_kl_inputs(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor | None, logvar_p: Tensor | None) -> list[Tensor]:
    """Two or four checked (B, D) tensors."""
    if mu_p is None or logvar_p is None:
        if mu_p is not None or logvar_p is not None:
            given = "only mu_p" if logvar_p is None else "only logvar_p"
            fail("gaussian_kl", "mu_p and logvar_p", "be given together or both left out", given)
        return checked_rows("gaussian_kl", mu_q=mu_q, logvar_q=logvar_q)
    return checked_rows("gaussian_kl", mu_q=mu_q, logvar_q=logvar_q, mu_p=mu_p, logvar_p=logvar_p)


def in_arithmetic_type(rows: Tensor) -> Tensor:
    """16-bit floats are computed with in float32."""
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def kl(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor | None = None, logvar_p: Tensor | None = None) -> Tensor:
    """The equations, unchecked."""
    if mu_p is None or logvar_p is None:
        return 0.5 * (exp_gap(logvar_q) + mu_q.square()).sum(-1)
    scale = torch.exp(-0.25 * logvar_p)  # in two steps: the variance alone leaves the range long before the quotient
    distance = ((mu_q - mu_p) * scale * scale).square()
    return 0.5 * (exp_gap(logvar_q - logvar_p) + distance).sum(-1)


def exp_gap(d: Tensor) -> Tensor:
    """e^d - 1 - d without cancellation: the series where |d| < 1/16, where it beats expm1(d) - d."""
    near = d.abs() < 0.0625
    small = torch.where(near, d, 0)
    series = torch.zeros_like(d)
    for n in range(12, 1, -1):  # small^2/2! + small^3/3! + ..
        series = (series + 1) * small / n
    return torch.where(near, series * small, torch.expm1(d) - d)

"""2-Wasserstein distance of diagonal Gaussians: Eq. 9, Zhang et al., SIGIR 2025."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import checked_rows, fail
from .gaussian_kl import in_arithmetic_type
from .reduction import check_reduction, reduce_rows


def gaussian_w2(
    mu_q: Tensor,
    logvar_q: Tensor,
    mu_p: Tensor,
    logvar_p: Tensor,
    *,
    squared: bool = False,
    eps: float = 0.0,
    reduction: str = "none",
    weight: float = 1.0,
) -> Tensor:
    """Reference of `dmrec_ext.gaussian_w2`."""
    check_eps("gaussian_w2", eps)
    rows = checked_rows("gaussian_w2", mu_q=mu_q, logvar_q=logvar_q, mu_p=mu_p, logvar_p=logvar_p)
    check_reduction("gaussian_w2", reduction, weight)
    values = w2(*map(in_arithmetic_type, rows), squared=squared, eps=eps)
    return reduce_rows(values, reduction, weight).to(rows[0].dtype)


def check_eps(op: str, eps: float) -> None:
    """``eps``, which is added under a root, is not negative."""
    if not eps >= 0.0:
        fail(op, "eps", "be at least 0", eps)


def w2(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor, *, squared: bool, eps: float) -> Tensor:
    """The equation, unchecked."""
    # sigma_p - sigma_q, from the larger of the two: no digits are lost where they are close
    gap = torch.exp(0.5 * torch.maximum(logvar_q, logvar_p)) * torch.expm1(-0.5 * (logvar_q - logvar_p).abs())
    total = ((mu_p - mu_q).square() + gap.square()).sum(-1)
    if squared:
        return total
    under_root = total + eps
    positive = under_root > 0
    # the root has no derivative at 0; 0 is the subgradient of least norm
    return torch.where(positive, torch.where(positive, under_root, 1).sqrt(), under_root)

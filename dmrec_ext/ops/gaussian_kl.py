"""KL divergence of diagonal Gaussians: public function, fake kernels, autograd."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from .._library import runs_native
from ..reference.gaussian_kl import checked_kl_inputs
from ._rows import register_row_operator


def gaussian_kl(
    mu_q: Tensor,
    logvar_q: Tensor,
    mu_p: Tensor | None = None,
    logvar_p: Tensor | None = None,
    *,
    reduction: str = "none",
    weight: float = 1.0,
) -> Tensor:
    r"""KL divergence between diagonal Gaussians, one value per row or their mean or sum.

    .. math:: KL(q \| p) = \tfrac12 \sum_d \left( e^{l_q - l_p} - 1 - (l_q - l_p) + (\mu_q - \mu_p)^2 e^{-l_p} \right)

    Eq. (14), Zhang et al., SIGIR 2025; without p, the divergence from N(0, I), Eq. (2).

    Args:
        mu_q: (.., D) means of q; float32, float64, float16 or bfloat16. Any strides; rows of adjacent elements are
            read in place, slices and expanded rows included.
        logvar_q: (.., D) natural logarithms of the variances of q.
        mu_p: (.., D) means of p; None, together with ``logvar_p``, for the standard normal.
        logvar_p: (.., D) log-variances of p. Shapes broadcast but for D: a prior may be (D,), (1, D) or (B, 1, D).
        reduction: ``"none"`` for one value per row, ``"mean"`` or ``"sum"`` over all rows. With one of these the
            gradient is formed together with the value, in one pass, wherever one is wanted.
        weight: a number that the result is multiplied by, such as an annealed weight in a training loss.

    Returns:
        (..) divergences, one per row of the shapes broadcast, in nats, in the dtype of the inputs; () if reduced.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices differ, only one of ``mu_p`` and ``logvar_p`` is given, or ``reduction`` is
            unknown.

    Note:
        Never negative; 0 where q = p. On the native path finite wherever the result fits the dtype, +inf beyond, and
        never NaN from finite input; NaN stays in its row. 16-bit inputs are computed with in float32; under autocast
        they become float32. The same bits for any number of threads, batch split and memory layout. Differentiable
        twice, by torch.func and in forward mode (what is beyond the first derivative in reverse mode runs on plain
        torch). Reads each input once, keeps nothing but the inputs for the backward pass; where the result is reduced,
        the gradients, too, which the first backward pass hands on (a second one forms them again).

    >>> import torch
    >>> mu, logvar = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    >>> gaussian_kl(mu, logvar)
    tensor([0.5000])
    >>> gaussian_kl(mu, logvar, mu, logvar)
    tensor([0.])
    """
    if not runs_native("gaussian_kl", mu_q):
        return reference.gaussian_kl(mu_q, logvar_q, mu_p, logvar_p, reduction=reduction, weight=weight)
    rows = checked_kl_inputs(mu_q, logvar_q, mu_p, logvar_p)
    return _operator(rows, (), reduction, weight)


_operator = register_row_operator("gaussian_kl", reference.gaussian_kl)

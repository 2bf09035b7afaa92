"""Divergence to the composite prior: public function, fake kernels, autograd."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from .._checks import checked_rows
from .._library import runs_native
from ..reference.composite_prior import check_composite
from ._rows import register_row_operator


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
    r"""Divergence of two diagonal Gaussians to a Gaussian c between them, one value per row or their mean or sum.

    .. math:: D_{CP} = KL(p \| c) + KL(q \| c)

    Eq. (11) and (12), Zhang et al., SIGIR 2025. The mean of c is :math:`\alpha \mu_q + (1 - \alpha) \mu_p`; its
    variance depends on the reading of Eq. (11).

    Args:
        mu_q: (.., D) means of q; float32, float64, float16 or bfloat16.
        logvar_q: (.., D) natural logarithms of the variances of q.
        mu_p: (.., D) means of p.
        logvar_p: (.., D) log-variances of p. Shapes broadcast but for D.
        alpha: weight of q in c, in [0, 1].
        interpolation: ``"log_linear"`` interpolates log-variances (the authors' code), ``"linear"`` variances,
            ``"moment"`` gives c the variance of the mixture of q and p.
        reduction: ``"none"`` for one value per row, ``"mean"`` or ``"sum"`` over all rows. With one of these the
            gradient is formed together with the value, in one pass, wherever one is wanted.
        weight: a number that the result is multiplied by, such as an annealed weight in a training loss.

    Returns:
        (..) divergences in nats, in the dtype of the inputs; () if reduced.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices differ, or an option is out of range.

    Note:
        0 where q = p. On the native path finite wherever the result
        fits the dtype, +inf beyond, and never NaN from finite input; NaN stays in its row. 16-bit inputs are computed
        with in float32; under autocast they become float32. The same bits for any number of threads, batch split and
        memory layout. Differentiable twice, by torch.func and in forward mode (what is beyond the first derivative in
        reverse mode runs on plain torch).

    >>> import torch
    >>> mu, logvar = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    >>> composite_prior(mu, logvar, -mu, logvar)
    tensor([1.])
    """
    if not runs_native("composite_prior", mu_q):
        return reference.composite_prior(
            mu_q,
            logvar_q,
            mu_p,
            logvar_p,
            alpha=alpha,
            interpolation=interpolation,
            reduction=reduction,
            weight=weight,
        )
    check_composite("composite_prior", alpha, interpolation)
    rows = checked_rows("composite_prior", mu_q=mu_q, logvar_q=logvar_q, mu_p=mu_p, logvar_p=logvar_p)
    return _operator(rows, (float(alpha), interpolation), reduction, weight)


_operator = register_row_operator("composite_prior", reference.composite_prior)

"""2-Wasserstein distance of diagonal Gaussians: public function, fake kernels, autograd."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from .._checks import checked_rows
from .._library import runs_native
from ..reference.gaussian_w2 import check_eps
from ._rows import arithmetic_dtype, by_position, register_row_operator


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
    r"""2-Wasserstein distance between diagonal Gaussians, one value per row or their mean or sum.

    .. math:: W_2^2(q, p) = \sum_d (\mu_p - \mu_q)^2 + (\sigma_p - \sigma_q)^2, \quad \sigma = e^{l / 2}

    Eq. (9), Zhang et al., SIGIR 2025.

    Args:
        mu_q: (.., D) means of q; float32, float64, float16 or bfloat16.
        logvar_q: (.., D) natural logarithms of the variances of q.
        mu_p: (.., D) means of p.
        logvar_p: (.., D) log-variances of p. Shapes broadcast but for D.
        squared: return :math:`W_2^2` instead of its root.
        eps: added under the root (the authors' code: 1e-7).
        reduction: ``"none"`` for one value per row, ``"mean"`` or ``"sum"`` over all rows. With one of these the
            gradient is formed together with the value, in one pass, wherever one is wanted.
        weight: a number that the result is multiplied by, such as an annealed weight in a training loss.

    Returns:
        (..) :math:`\sqrt{W_2^2 + eps}`, or :math:`W_2^2`, in the dtype of the inputs and the unit of the means; () if
        reduced.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices differ, ``eps`` is negative, or ``reduction`` is unknown.

    Note:
        Where the root is 0 its gradient is taken as 0. On the native path finite wherever the result fits the dtype,
        +inf beyond, and never NaN from finite input; NaN stays in its row. 16-bit inputs are computed with in float32;
        under autocast they become float32. The same bits for any number of threads, batch split and memory layout.
        Differentiable twice, by torch.func and in forward mode (what is beyond the first derivative in reverse mode
        runs on plain torch). Keeps the inputs and the distances for the backward pass.

    >>> import torch
    >>> mu, logvar = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    >>> gaussian_w2(mu, logvar, 0 * mu, logvar)
    tensor([5.])
    """
    if not runs_native("gaussian_w2", mu_q):
        return reference.gaussian_w2(
            mu_q, logvar_q, mu_p, logvar_p, squared=squared, eps=eps, reduction=reduction, weight=weight
        )
    check_eps("gaussian_w2", eps)
    rows = checked_rows("gaussian_w2", mu_q=mu_q, logvar_q=logvar_q, mu_p=mu_p, logvar_p=logvar_p)
    return _operator(rows, (squared, float(eps)), reduction, weight)


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The distance, and the same that the backward of the root takes."""
    distance = by_position(reference.gaussian_w2)(*arguments)
    squared = arguments[4] if len(arguments) > 4 else False
    return distance, distance.new_empty(0 if squared else distance.shape[0], dtype=arithmetic_dtype(distance.dtype))


_operator = register_row_operator("gaussian_w2", reference.gaussian_w2, saves_value=True, fake=_fake)

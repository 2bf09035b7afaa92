"""Whole matching losses: public function, fake kernels, autograd."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .._checks import checked_rows
from .._library import runs_native
from ..reference.composite_prior import INTERPOLATIONS
from ..reference.matching_loss import STRATEGIES, check_matching
from ._rows import arithmetic_dtype, by_position, register_row_operator


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
    r"""Regulariser and matching term between a collaborative and a language posterior: one value per row, or their mean
    or sum.

    With p the language posterior, q the fused one, c the composite prior between q and p:

    - ``"godm"``: :math:`KL(q \| N(0, I)) + \beta W_2(\mathrm{collaborative}, p)`, Eq. (10)
    - ``"cpdm"``: :math:`KL(q \| N(0, I)) + \beta (KL(p \| c) + KL(q \| c))`, Eq. (13)
    - ``"mddm"``: :math:`\beta KL(q \| N(0, I)) + (1 - \beta) KL(q \| p)`, Eq. (15)
    - ``"kl"``: :math:`KL(q \| N(0, I)) + \beta KL(q \| p)`, the ablation without mixing

    Zhang et al., SIGIR 2025.

    Args:
        mu_c: (.., D) means of the collaborative posterior; float32, float64, float16 or bfloat16.
        logvar_c: (.., D) natural logarithms of its variances.
        mu_l: (.., D) means of the language posterior.
        logvar_l: (.., D) its log-variances. Shapes broadcast but for D.
        strategy: one of the four above.
        beta: weight; a number or a 0-dimensional tensor.
        alpha: weight of q in the composite prior ("cpdm").
        interpolation: how the composite prior is formed ("cpdm"), see `composite_prior`.
        squared: use :math:`W_2^2` ("godm").
        eps: added under the root of :math:`W_2` ("godm"; the authors' code: 1e-7).
        fusion: ``"add"`` sums means and log-variances of the two posteriors (the authors' code);
            ``"collaborative"`` takes q as it comes from the backbone.
        reduction: ``"none"`` for one value per row, ``"mean"`` or ``"sum"`` over all rows. With one of these the
            gradient is formed together with the value, in one pass, wherever one is wanted.
        weight: a number that the result is multiplied by, such as an annealed weight in a training loss.

    Returns:
        (..) losses in nats, in the dtype of the inputs; () if reduced.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices differ, or an option is unknown or out of range.

    Note:
        One pass over the inputs forward, one backward; one pass for both where the result is reduced. Native but for a
        ``beta`` that wants a gradient (or is a tensor while compiling: as a number, each new value is a new
        compilation), which runs on plain torch; a tensor on a GPU is read, which waits for it. Where the root of
        :math:`W_2^2` is 0 its gradient is taken as 0. Numerics, determinism and further derivatives as for
        `gaussian_kl` and `gaussian_w2`.

    >>> import torch
    >>> mu, logvar = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    >>> matching_loss(mu, logvar, 0 * mu, logvar, strategy="mddm", beta=0.5)
    tensor([0.5000])
    """
    if not _is_native(mu_c, beta):
        return reference.matching_loss(
            mu_c,
            logvar_c,
            mu_l,
            logvar_l,
            strategy=strategy,
            beta=beta,
            alpha=alpha,
            interpolation=interpolation,
            squared=squared,
            eps=eps,
            fusion=fusion,
            reduction=reduction,
            weight=weight,
        )
    rows = checked_rows("matching_loss", mu_c=mu_c, logvar_c=logvar_c, mu_l=mu_l, logvar_l=logvar_l)
    if isinstance(beta, Tensor) or torch.compiler.is_compiling():
        check_matching(rows[0].device, strategy, beta, alpha, interpolation, eps, fusion)
        options = _in_types(strategy, beta, alpha, interpolation, squared, eps, fusion)
    else:
        try:
            options = _checked_options(strategy, beta, alpha, interpolation, squared, eps, fusion)
        except TypeError:  # also where one cannot be looked up: the check says what it must be
            check_matching(None, strategy, beta, alpha, interpolation, eps, fusion)
            raise
    return _operator(rows, options, reduction, weight)


@functools.lru_cache(maxsize=64)
def _checked_options(
    strategy: str, beta: float, alpha: float, interpolation: str, squared: bool, eps: float, fusion: str
) -> tuple[Any, ...]:
    check_matching(None, strategy, beta, alpha, interpolation, eps, fusion)
    return _in_types(strategy, beta, alpha, interpolation, squared, eps, fusion)


def _in_types(
    strategy: str, beta: Any, alpha: Any, interpolation: str, squared: Any, eps: Any, fusion: str
) -> tuple[Any, ...]:
    return strategy, float(beta), float(alpha), interpolation, bool(squared), float(eps), fusion


@functools.lru_cache(maxsize=64)
def _encode(
    strategy: str, beta: float, alpha: float, interpolation: str, squared: bool, eps: float, fusion: str
) -> tuple[int, float, float, float]:
    """One number for all that is chosen: an operator's call costs a microsecond for each string."""
    chosen = STRATEGIES.index(strategy) + 4 * INTERPOLATIONS.index(interpolation)
    return chosen + 16 * squared + 32 * (fusion == "add"), beta, alpha, eps


def _is_native(mu_c: Tensor, beta: float | Tensor) -> bool:
    if isinstance(beta, Tensor) and (beta.requires_grad or torch.compiler.is_compiling()):
        return False
    return runs_native("matching_loss", mu_c)


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The loss, and the distance that the backward of "godm" takes."""
    loss = by_position(reference.matching_loss)(*arguments)
    squared = arguments[8] if len(arguments) > 8 else False
    saved = loss.shape[0] if arguments[4] == "godm" and not squared else 0
    return loss, loss.new_empty(saved, dtype=arithmetic_dtype(loss.dtype))


_operator = register_row_operator(
    "matching_loss", reference.matching_loss, saves_value=True, fake=_fake, encode=_encode
)

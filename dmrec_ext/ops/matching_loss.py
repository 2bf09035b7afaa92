"""Whole matching losses: public function, fake kernels, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .._library import runs_native
from ..reference.matching_loss import checked_matching_inputs
from ._rows import register_row_operator


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
) -> Tensor:
    r"""Regulariser and matching term between a collaborative and a language posterior, one value per row.

    With p the language posterior, q the fused one, c the composite prior between q and p:

    - ``"godm"``: :math:`KL(q \| N(0, I)) + \beta W_2(\mathrm{collaborative}, p)`, Eq. (10)
    - ``"cpdm"``: :math:`KL(q \| N(0, I)) + \beta (KL(p \| c) + KL(q \| c))`, Eq. (13)
    - ``"mddm"``: :math:`\beta KL(q \| N(0, I)) + (1 - \beta) KL(q \| p)`, Eq. (15)
    - ``"kl"``: :math:`KL(q \| N(0, I)) + \beta KL(q \| p)`, the ablation without mixing

    Zhang et al., SIGIR 2025.

    Args:
        mu_c: (B, D) means of the collaborative posterior; float32, float64, float16 or bfloat16.
        logvar_c: (B, D) natural logarithms of its variances.
        mu_l: (B, D) means of the language posterior.
        logvar_l: (B, D) its log-variances.
        strategy: one of the four above.
        beta: weight; a number or a 0-dimensional tensor.
        alpha: weight of q in the composite prior ("cpdm").
        interpolation: how the composite prior is formed ("cpdm"), see `composite_prior`.
        squared: use :math:`W_2^2` ("godm").
        eps: added under the root of :math:`W_2` ("godm"; the authors' code: 1e-7).
        fusion: ``"add"`` sums means and log-variances of the two posteriors (the authors' code);
            ``"collaborative"`` takes q as it comes from the backbone.

    Returns:
        (B,) losses in nats, in the dtype of the inputs.

    Raises:
        TypeError: an argument is no floating-point tensor, or dtypes differ.
        ValueError: shapes or devices differ, or an option is unknown or out of range.

    Note:
        One pass over the inputs forward, one backward. Native but for a ``beta`` that wants a gradient (or is a tensor
        while compiling: as a number, each new value is a new compilation), which runs on plain torch; a tensor on a GPU
        is read, which waits for it. Where the root
        of :math:`W_2^2` is 0 its gradient is taken as 0. Numerics, determinism and further derivatives as for
        `gaussian_kl` and `gaussian_w2`.

    >>> import torch
    >>> mu, logvar = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    >>> matching_loss(mu, logvar, 0 * mu, logvar, strategy="mddm", beta=0.5)
    tensor([0.5000])
    """
    options: dict[str, Any] = {"strategy": strategy, "beta": beta, "alpha": alpha, "interpolation": interpolation}
    options |= {"eps": eps, "fusion": fusion}
    if not _is_native(mu_c, beta):
        return reference.matching_loss(mu_c, logvar_c, mu_l, logvar_l, squared=squared, **options)
    rows = checked_matching_inputs(mu_c, logvar_c, mu_l, logvar_l, **options)
    loss: Tensor = _call(*rows, strategy, float(beta), float(alpha), interpolation, squared, float(eps), fusion)[0]
    return loss


def _is_native(mu_c: Tensor, beta: float | Tensor) -> bool:
    if isinstance(beta, Tensor) and (beta.requires_grad or torch.compiler.is_compiling()):
        return False
    return runs_native("matching_loss", mu_c)


def _reference(
    mu_c: Tensor,
    logvar_c: Tensor,
    mu_l: Tensor,
    logvar_l: Tensor,
    strategy: str,
    beta: float,
    alpha: float,
    interpolation: str,
    squared: bool,
    eps: float,
    fusion: str,
) -> Tensor:
    options: dict[str, Any] = {"strategy": strategy, "beta": beta, "alpha": alpha, "interpolation": interpolation}
    options |= {"squared": squared, "eps": eps, "fusion": fusion}
    return reference.matching_loss(mu_c, logvar_c, mu_l, logvar_l, **options)


def _fake(
    mu_c: Tensor,
    logvar_c: Tensor,
    mu_l: Tensor,
    logvar_l: Tensor,
    strategy: str,
    beta: float,
    alpha: float,
    interpolation: str,
    squared: bool,
    eps: float,
    fusion: str,
) -> tuple[Tensor, Tensor]:
    options: dict[str, Any] = {"strategy": strategy, "beta": beta, "alpha": alpha, "interpolation": interpolation}
    rows = checked_matching_inputs(mu_c, logvar_c, mu_l, logvar_l, eps=eps, fusion=fusion, **options)
    n_rows = rows[0].shape[0]
    return rows[0].new_empty(n_rows), rows[0].new_empty(n_rows if strategy == "godm" else 0)


def _backward_operator(
    grad: Tensor, value: Tensor | None, rows: list[Tensor], options: tuple[Any, ...], needed: int
) -> list[Tensor]:
    gradients: list[Tensor] = torch.ops.dmrec_ext._matching_loss_backward(grad, value, *rows, *options, needed)
    return gradients


_call = register_row_operator(
    "matching_loss",
    n_inputs=4,
    fake=_fake,
    reference=_reference,
    backward_operator=_backward_operator,
    saves_value=True,
)

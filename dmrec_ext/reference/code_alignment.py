"""Contrastive alignment of distributions over codebooks: SODA (Xue et al., arXiv 2603.00700)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_choice, check_like, check_tensor, fail, float32_under_autocast
from .gaussian_kl import in_arithmetic_type

DIRECTIONS = ("forward", "reverse", "symmetric")
NEGATIVES = ("batch_mean", "leave_one_out")


def code_alignment(
    target: Tensor,
    prediction: Tensor,
    *,
    direction: str = "forward",
    negative: str = "batch_mean",
    detach_negative: bool = False,
    level_weights: Sequence[float] | None = None,
    slope: float = 1.0,
) -> Tensor:
    """Reference of `dmrec_ext.code_alignment`."""
    target, prediction = checked_alignment_inputs(target, prediction, direction, negative, level_weights, slope)
    logits = in_arithmetic_type(target), in_arithmetic_type(prediction)
    weights = None
    if level_weights is not None:
        weights = torch.tensor(level_weights, dtype=logits[0].dtype, device=target.device)
    return alignment_of_logits(*logits, direction, negative, detach_negative, weights, slope)


def alignment_of_logits(
    target: Tensor,
    prediction: Tensor,
    direction: str,
    negative: str,
    detach_negative: bool,
    level_weights: Tensor | None,
    slope: float,
) -> Tensor:
    """The equation, unchecked."""
    log_y, log_p = torch.log_softmax(target, -1), torch.log_softmax(prediction, -1)
    log_n = log_mean(log_p) if negative == "batch_mean" or not len(log_p) else log_mean_of_others(log_p)
    if detach_negative:
        log_n = log_n.detach()
    gap = torch.zeros(log_y.shape[:2], dtype=log_y.dtype, device=log_y.device)  # KL of the negative - of the prediction
    if direction != "reverse":
        gap = gap + (log_y.exp() * (log_p - log_n)).sum(-1)
    if direction != "forward":
        gap = gap + (log_n.exp() * (log_n - log_y)).sum(-1) - (log_p.exp() * (log_p - log_y)).sum(-1)
    if level_weights is not None:
        gap = gap * level_weights
    return slope * torch.nn.functional.softplus(-gap.sum(-1) / slope, threshold=50)


def log_mean(log_p: Tensor) -> Tensor:
    """(1, L, C) log of the mean over the batch of distributions (B, L, C)."""
    return torch.logsumexp(log_p, 0, keepdim=True) - math.log(max(log_p.shape[0], 1))


def log_mean_of_others(log_p: Tensor) -> Tensor:
    """(B, L, C) log of the mean over all other rows.

    Relative to the largest of all rows, what a row leaves of the sum is at least as much as it takes away; but for the
    row that has the largest itself, whose others are summed apart, relative to the largest of those.
    """
    largest, row = log_p.detach().max(0, keepdim=True)
    has_largest = torch.arange(log_p.shape[0], device=log_p.device)[:, None, None] == row
    second = log_p.detach().masked_fill(has_largest, -torch.inf).amax(0, keepdim=True)
    shares = torch.exp(log_p - largest)
    others = torch.where(has_largest, 1, shares.sum(0, keepdim=True) - shares)
    of_its_others = torch.exp((log_p - second).masked_fill(has_largest, -torch.inf)).sum(0, keepdim=True)
    total = torch.where(has_largest, second + of_its_others.log(), largest + others.log())
    return total - math.log(max(log_p.shape[0] - 1, 1))


def checked_alignment_inputs(
    target: Tensor,
    prediction: Tensor,
    direction: str,
    negative: str,
    level_weights: Sequence[float] | None,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """Both logits, float32 under autocast; all arguments are checked."""
    op = "code_alignment"
    check_tensor(op, "target", target, 3)
    check_tensor(op, "prediction", prediction, 3)
    target, prediction = float32_under_autocast(target), float32_under_autocast(prediction)
    check_like(op, "prediction", prediction, "target", target)
    if prediction.shape != target.shape:
        fail(op, "prediction", f"have the shape of target {tuple(target.shape)}", tuple(prediction.shape))
    check_choice(op, "direction", direction, DIRECTIONS)
    check_choice(op, "negative", negative, NEGATIVES)
    if negative == "leave_one_out" and target.shape[0] == 1:
        fail(op, "target", "have at least 2 rows for negative='leave_one_out'", 1)
    if level_weights is not None and len(level_weights) != target.shape[1]:
        fail(op, "level_weights", f"have one number per level ({target.shape[1]})", len(level_weights))
    if not slope > 0:
        fail(op, "slope", "be positive", slope)
    return target, prediction

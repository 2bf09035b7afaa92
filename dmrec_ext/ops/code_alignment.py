"""Contrastive alignment of distributions over codebooks: public function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .._library import NATIVE, runs_native
from .._torch_private import is_batched
from ..reference.code_alignment import alignment_of_logits, checked_alignment_inputs
from ..reference.gaussian_kl import in_arithmetic_type
from ._call import call

MOST_KEPT = 64 * 2**20  # bytes


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
    r"""Contrasts each prediction with the average of its batch, as distributions over the codes of some codebooks.

    With y, p the softmax of target and prediction on each level and n the mean of p over the batch,

    .. math:: \mathrm{softplus}(-\delta_b), \quad
        \delta_b = \sum_l \mathrm{KL}(y_{bl} \| n_l) - \mathrm{KL}(y_{bl} \| p_{bl})
        = \sum_l \sum_c y_{blc} (\log p_{blc} - \log n_{lc})

    SODA (Xue et al., arXiv 2603.00700): a loss as of Bayesian personalised ranking, whose score is a negative KL
    divergence and whose negative is the in-batch average. The paper's text is not public: this is its abstract and
    figure.

    Args:
        target: (B, L, C) logits of each row's item on each of L codebooks of C codes; float32, float64, float16 or
            bfloat16, finite.
        prediction: (B, L, C) logits of each row's history on the same codebooks.
        direction: ``"forward"``, KL of the target from the others; ``"reverse"``, of the others from the target,
            :math:`\delta = \sum \mathrm{KL}(n \| y) - \mathrm{KL}(p \| y)`; ``"symmetric"``, the sum of both.
        negative: ``"batch_mean"``, the mean of p over all rows; ``"leave_one_out"``, over all other rows.
        detach_negative: the negative is a constant.
        level_weights: weights of the levels in the sum; None for ones.
        slope: s in :math:`s\,\mathrm{softplus}(-\delta / s)`.

    Returns:
        (B,) losses in nats, in the dtype of the logits but float32 for 16-bit ones; log 2 where a prediction tells what
        the batch tells.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, an option is unknown, or a single row is to be left out of its own batch.

    Note:
        Sums of exponentials are formed in float32 (float64 for float64), without a difference where one row is left
        out. A row depends on the whole batch, so a NaN in a prediction reaches all rows, one in a target its own.
        For the backward, the probabilities of both are kept on the CPU up to 64 MiB; beyond, and on a GPU, nothing of
        the size of the logits. Bits do not depend on threads. At most 2^24 rows on the native path; second derivatives
        on plain torch.

    >>> import torch
    >>> code_alignment(torch.randn(1, 3, 8), torch.randn(1, 3, 8))  # one row: its own average
    tensor([0.6931])
    """
    if not runs_native("code_alignment", target):
        return reference.code_alignment(
            target,
            prediction,
            direction=direction,
            negative=negative,
            detach_negative=detach_negative,
            level_weights=level_weights,
            slope=slope,
        )
    target, prediction = checked_alignment_inputs(target, prediction, direction, negative, level_weights, slope)
    weights = None
    if level_weights is not None:
        dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
        weights = torch.tensor(level_weights, dtype=dtype, device=target.device)
    learns = torch.is_grad_enabled() and (target.requires_grad or prediction.requires_grad)
    keep = learns and 2 * target.numel() * (8 if target.dtype == torch.float64 else 4) <= MOST_KEPT
    options = (direction, negative, detach_negative, weights, slope, keep)
    loss: Tensor = call(torch.ops.dmrec_ext.code_alignment.default, target, prediction, *options)[0]
    return loss


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    target, prediction, direction, negative, detached, weights, slope, _ = inputs
    ctx.save_for_backward(target, prediction, weights, *output[1:])
    ctx.options = (direction, negative, detached, slope)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *of_others: Tensor | None) -> tuple[Tensor | None, ...]:
    del of_others  # they only serve the backward
    wanted = [i for i in range(2) if ctx.needs_input_grad[i]]
    result: list[Tensor | None] = [None] * 8
    if grad is None or not wanted:
        return tuple(result)
    target, prediction, weights, *saved = ctx.saved_tensors
    direction, negative, detached, slope = ctx.options
    if torch.is_grad_enabled() or is_batched(grad):  # create_graph=True, is_grads_batched=True
        with torch.enable_grad():
            leaves = target.view_as(target), prediction.view_as(prediction)
            logits = in_arithmetic_type(leaves[0]), in_arithmetic_type(leaves[1])
            loss = alignment_of_logits(*logits, direction, negative, detached, weights, slope)
        gradients: Sequence[Tensor] = torch.autograd.grad(
            loss, [leaves[i] for i in wanted], grad, create_graph=torch.is_grad_enabled()
        )
    else:
        needed = sum(1 << i for i in wanted)
        arguments = (grad, target, prediction, *saved, direction, negative, detached, weights, slope, needed)
        gradients = torch.ops.dmrec_ext._code_alignment_backward.default(*arguments)
    for i, gradient in zip(wanted, gradients, strict=True):
        result[i] = gradient
    return tuple(result)


def _fake(target: Tensor, prediction: Tensor, *options: Any) -> tuple[Tensor, ...]:
    direction, negative, _, weights, slope, keep = options
    level_weights = None if weights is None else [1.0] * weights.shape[0]
    checked_alignment_inputs(target, prediction, direction, negative, level_weights, slope)
    arithmetic = torch.float64 if target.dtype == torch.float64 else torch.float32
    b, levels, codes = target.shape
    kept = (2 if keep and target.device.type == "cpu" else 0, b, levels, codes)
    shapes: list[tuple[int, ...]] = [(b,), (4, b, levels), (4, levels, codes), (b,), kept]
    return tuple(target.new_empty(shape, dtype=arithmetic) for shape in shapes)


def _fake_backward(grad: Tensor, target: Tensor, prediction: Tensor, *others: Any) -> list[Tensor]:
    inputs, needed = (target, prediction), others[-1]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for i, t in enumerate(inputs) if needed >> i & 1]


if NATIVE["code_alignment"]:
    torch.library.register_fake("dmrec_ext::code_alignment", _fake)
    torch.library.register_fake("dmrec_ext::_code_alignment_backward", _fake_backward)
    torch.library.register_autograd("dmrec_ext::code_alignment", _backward, setup_context=_setup)

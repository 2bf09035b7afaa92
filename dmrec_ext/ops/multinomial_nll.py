"""Linear layer and softmax negative log-likelihood with sparse targets: public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .._checks import autocast_enabled, check_tensor
from .._library import NATIVE, runs_native
from .._torch_private import is_batched
from ..csr import Csr
from ..reference.multinomial_nll import LOGITS_BUDGET, checked_nll_inputs, targets
from ._call import call


def multinomial_nll(
    hidden: Tensor,
    weight: Tensor,
    x: Csr | Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str = "mean",
    logits_budget: int = LOGITS_BUDGET,
) -> Tensor:
    r"""Multinomial negative log-likelihood of sparse interactions under a softmax over all items.

    .. math:: -\sum_i x_{ui} \log \mathrm{softmax}(H_u W^T + b)_i

    The reconstruction term of Eq. (19), Zhang et al., SIGIR 2025 (Liang et al., WWW 2018, Eq. 2).

    Args:
        hidden: (B, H) last hidden layer of the decoder; float32, float64, float16 or bfloat16.
        weight: (N, H) output layer, one row per item.
        x: (B, N) sparse targets; ``values`` of any floating-point dtype, None for ones. Or (B,) int64 class indices, as
            `torch.nn.functional.cross_entropy` takes them: a single target for each row.
        bias: (N,) added to the logits.
        reduction: ``"mean"`` over users, ``"sum"`` or ``"none"``.
        logits_budget: bytes of logits that the forward may save for the backward; 0 saves none. Logits that exceed it
            are computed again in the backward, tile by tile: four matrix products instead of three, and no (B, N)
            tensor.

    Returns:
        () loss in nats, or (B,) for ``"none"``. A user without targets costs 0; the
        mean over no user at all is NaN, as torch has it.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, an option is unknown or negative, or ``x`` is not a well-formed CSR matrix.

    Note:
        On the native path a (B, N) tensor exists only as the logits that the forward saves for its backward, within
        ``logits_budget`` (default: ``dmrec_ext.LOGITS_BUDGET``, 256 MiB). Above the budget, and where nothing wants a
        gradient, scratch is one tile of 16 MiB (on CUDA of 16 million numbers). Products run in float32, in float64 for
        float64, and in bfloat16 for bfloat16 inputs or under autocast to it: sums of exponentials are float32 always,
        but logits then carry 8 bits, and gradients err by some 3e-3 (of their norm). Products are torch's, so bits
        depend on the number of threads. Gradients for ``hidden``, ``weight`` and ``bias``; for ``values``, and second
        derivatives, on plain torch. On CUDA the columns of ``x`` are not checked and must rise in each row; under
        autocast to float16 products are float32 there.

    >>> import torch
    >>> x = Csr(torch.tensor([0, 1]), torch.tensor([2]), None, 4)
    >>> multinomial_nll(torch.zeros(1, 2), torch.zeros(4, 2), x)  # log 4
    tensor(1.3863)
    """
    x = targets(x, hidden, weight)
    wants_values = x.values is not None and x.values.requires_grad and torch.is_grad_enabled()
    if wants_values or not runs_native("multinomial_nll", hidden):
        return reference.multinomial_nll(hidden, weight, x, bias, reduction=reduction, logits_budget=logits_budget)
    checked_nll_inputs(hidden, weight, x, bias, reduction, logits_budget)
    bf16 = weight.dtype == torch.bfloat16
    if autocast_enabled(hidden.device.type):
        bf16 = bf16 or torch.get_autocast_dtype(hidden.device.type) == torch.bfloat16
    bf16 = bf16 and weight.dtype != torch.float64
    save = _saves_logits(hidden, weight, bias, bf16, logits_budget)
    arguments = (hidden, weight, x.crow, x.col, x.values, bias, bf16, save)
    loss: Tensor = call(torch.ops.dmrec_ext.multinomial_nll.default, *arguments)[0]
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _saves_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, bf16: bool, budget: int) -> bool:
    """Whether there will be a backward, and the logits fit the budget until then."""
    differentiated = any(t is not None and t.requires_grad for t in (hidden, weight, bias))
    size = 2 if bf16 else max(4, weight.element_size())
    return torch.is_grad_enabled() and differentiated and hidden.shape[0] * weight.shape[0] * size <= budget


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, bf16, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.bf16 = bf16
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or autograd makes zeros as large as the logits


def _backward(ctx: Any, grad: Tensor | None, *of_others: Tensor | None) -> tuple[Tensor | None, ...]:
    del of_others  # they only serve the backward
    if grad is None:
        return (None,) * 8
    hidden, weight, crow, col, values, bias, log_sums, logits = ctx.saved_tensors
    wanted = [i for i, place in enumerate((0, 1, 5)) if ctx.needs_input_grad[place]]
    if torch.is_grad_enabled() or is_batched(grad):  # create_graph=True, is_grads_batched=True
        if len({t.dtype for t in (hidden, weight, bias) if t is not None}) > 1:
            raise RuntimeError("multinomial_nll: under autocast only first derivatives can be formed; leave it")
        with torch.enable_grad():
            apart = [None if t is None else t.view_as(t) for t in (hidden, weight, bias)]
            x = Csr(crow, col, values, weight.shape[0])
            loss = reference.multinomial_nll(apart[0], apart[1], x, apart[2], reduction="none")  # type: ignore[arg-type]
        inputs = [part for i in wanted if (part := apart[i]) is not None]
        gradients = list(torch.autograd.grad(loss, inputs, grad, create_graph=torch.is_grad_enabled()))
    else:
        needed = sum([1 << i for i in wanted])
        arguments = (grad, hidden, weight, crow, col, values, bias, ctx.bf16, log_sums, logits, needed)
        gradients = torch.ops.dmrec_ext._multinomial_nll_backward.default(*arguments)
    result: list[Tensor | None] = [None] * 8
    for i, gradient in zip(wanted, gradients, strict=True):
        result[(0, 1, 5)[i]] = gradient
    return tuple(result)


def _fake(hidden: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    bf16, save = others[-2:]
    check_tensor("multinomial_nll", "hidden", hidden, 2)
    check_tensor("multinomial_nll", "weight", weight, 2)
    arithmetic = torch.float64 if weight.dtype == torch.float64 else torch.float32
    rows = hidden.shape[0]
    vectors = [hidden.new_empty(shape, dtype=arithmetic) for shape in (rows, (2, rows))]
    size = (rows, weight.shape[0]) if save else (0, 0)
    return vectors[0], vectors[1], hidden.new_empty(size, dtype=torch.bfloat16 if bf16 else arithmetic)


def _fake_backward(grad: Tensor, hidden: Tensor, weight: Tensor, *others: Any) -> list[Tensor]:
    bias, needed = others[3], others[-1]
    of = [torch.empty_like(hidden, memory_format=torch.contiguous_format)] if needed & 1 else []
    of += [torch.empty_like(weight, memory_format=torch.contiguous_format)] if needed & 2 else []
    return of + ([torch.empty_like(bias, memory_format=torch.contiguous_format)] if needed & 4 else [])


if NATIVE["multinomial_nll"]:
    torch.library.register_fake("dmrec_ext::multinomial_nll", _fake)
    torch.library.register_fake("dmrec_ext::_multinomial_nll_backward", _fake_backward)
    torch.library.register_autograd("dmrec_ext::multinomial_nll", _backward, setup_context=_setup)

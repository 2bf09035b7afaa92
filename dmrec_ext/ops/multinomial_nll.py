"""Linear layer and softmax negative log-likelihood with sparse targets: public functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .._checks import autocast_enabled, check_choice, check_tensor
from .._library import NATIVE, runs_native
from .._torch_private import AutoDispatchBelowAutograd, is_batched, is_jit_tracing
from ..csr import Csr
from ..reference.multinomial_nll import LOGITS_BUDGET, REDUCTIONS, checked_nll_inputs, targets
from ._call import call, wants_gradient


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
        gradient, scratch is one tile of 16 MiB (on CUDA of 16 million numbers), on the CPU kept by the calling thread
        for its next call, up to 32 MiB. Products run in float32, in float64 for float64, and in bfloat16 for bfloat16
        inputs or under autocast to it: sums of exponentials are float32 always, but logits then carry 8 bits, and
        gradients err by some 3e-3 (of their norm). Products are torch's, so bits depend on the number of threads.
        Gradients for ``hidden``, ``weight`` and ``bias``; for ``values``, and second derivatives, on plain torch. On
        CUDA the columns of ``x`` are not checked and must rise in each row; under autocast to float16 products are
        float32 there.

    >>> import torch
    >>> x = Csr(torch.tensor([0, 1]), torch.tensor([2]), None, 4)
    >>> multinomial_nll(torch.zeros(1, 2), torch.zeros(4, 2), x)  # log 4
    tensor(1.3863)
    """
    x = targets("multinomial_nll", x, hidden, weight)
    if _wants_values(x) or not runs_native("multinomial_nll", hidden):
        return reference.multinomial_nll(hidden, weight, x, bias, reduction=reduction, logits_budget=logits_budget)
    checked_nll_inputs("multinomial_nll", hidden, weight, x, bias, logits_budget)
    check_choice("multinomial_nll", "reduction", reduction, REDUCTIONS)
    arguments = _arguments(hidden, weight, x, bias, logits_budget)
    if wants_gradient(arguments) and not torch.compiler.is_compiling() and not is_jit_tracing():
        loss: Tensor = _Loss.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        loss = _loss_of(call(torch.ops.dmrec_ext.multinomial_terms.default, *arguments)[0], weight)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def multinomial_terms(
    hidden: Tensor, weight: Tensor, x: Csr | Tensor, bias: Tensor | None = None, *, logits_budget: int = LOGITS_BUDGET
) -> Tensor:
    r"""The two sums over items of which `multinomial_nll` consists, for items that are spread over several calls.

    .. math:: S_u = \log \sum_i e^{l_{ui}}, \quad T_u = \sum_i x_{ui} l_{ui}, \quad l = H W^T + b

    The loss is :math:`S_u \sum_i x_{ui} - T_u`. Those of parts of the items are put together by `torch.logaddexp` and
    by addition: a catalogue that no single machine holds, or negatives that are sampled and weighted.

    Args:
        hidden: (B, H), as in `multinomial_nll`.
        weight: (N, H), one row for each item of this part.
        x: (B, N) sparse targets among these items, or (B,) class indices.
        bias: (N,) added to the logits; with the log of an item's weight, it counts as so many.
        logits_budget: bytes of logits that the forward may save for the backward.

    Returns:
        (2, B) float64, in nats: S, which is -inf without any item, and T. Both differentiable, each by itself.

    Raises:
        TypeError, ValueError: as `multinomial_nll`.

    Note:
        The native path, its memory and precision are those of `multinomial_nll`. S and T differ by the loss alone, so
        they are float64 whatever the products.

    >>> import torch
    >>> x = Csr(torch.tensor([0, 1]), torch.tensor([2]), None, 4)
    >>> multinomial_terms(torch.ones(1, 1), torch.tensor([[0.0], [0.0], [3.0], [0.0]]), x)
    tensor([[3.1392],
            [3.0000]], dtype=torch.float64)
    """
    x = targets("multinomial_terms", x, hidden, weight)
    if _wants_values(x) or not runs_native("multinomial_nll", hidden):
        return reference.multinomial_terms(hidden, weight, x, bias, logits_budget=logits_budget)
    checked_nll_inputs("multinomial_terms", hidden, weight, x, bias, logits_budget)
    terms: Tensor = call(
        torch.ops.dmrec_ext.multinomial_terms.default, *_arguments(hidden, weight, x, bias, logits_budget)
    )[0]
    return terms[:2]


def _wants_values(x: Csr) -> bool:
    return x.values is not None and x.values.requires_grad and torch.is_grad_enabled()


def _arguments(hidden: Tensor, weight: Tensor, x: Csr, bias: Tensor | None, logits_budget: int) -> tuple[Any, ...]:
    """Those of the operator."""
    bf16 = weight.dtype == torch.bfloat16
    if autocast_enabled(hidden.device.type):
        bf16 = bf16 or torch.get_autocast_dtype(hidden.device.type) == torch.bfloat16
    bf16 = bf16 and weight.dtype != torch.float64
    save = _saves_logits(hidden, weight, bias, bf16, logits_budget)
    return hidden, weight, x.crow, x.col, x.values, bias, bf16, save


def _loss_of(terms: Tensor, weight: Tensor) -> Tensor:
    """(B,) X S - T, where X is 0 without S, whatever the logits of a row without targets."""
    log_sum, of_targets, total = terms.unbind(0)
    total = total.detach()
    loss = torch.where(total == 0, 0.0, total * log_sum) - of_targets
    return loss.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)


class _Loss(torch.autograd.Function):
    """The loss of rows for eager calls: what autograd would record of `_loss_of` takes as long as a small product."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        with AutoDispatchBelowAutograd():
            output = torch.ops.dmrec_ext.multinomial_terms.default(*arguments)
        *tensors, ctx.bf16, _ = arguments
        ctx.save_for_backward(*tensors, *output[1:], output[0][2])
        return _loss_of(output[0], arguments[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, total = ctx.saved_tensors
        grad = grad.double()
        return _gradients(ctx, saved, torch.stack([grad * total, -grad]))


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
    return (None,) * 8 if grad is None else _gradients(ctx, ctx.saved_tensors, grad)


def _gradients(ctx: Any, saved: Sequence[Any], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of the operator's arguments, from those of its terms (2 or more, B)."""
    hidden, weight, crow, col, values, bias, log_sums, logits = saved
    wanted = [i for i, place in enumerate((0, 1, 5)) if ctx.needs_input_grad[place]]
    if torch.is_grad_enabled() or is_batched(grad):  # create_graph=True, is_grads_batched=True
        if len({t.dtype for t in (hidden, weight, bias) if t is not None}) > 1:
            raise RuntimeError("multinomial_terms: under autocast only first derivatives can be formed; leave it")
        with torch.enable_grad():
            apart = [None if t is None else t.view_as(t) for t in (hidden, weight, bias)]
            x = Csr(crow, col, values, weight.shape[0])
            terms = reference.multinomial_terms(apart[0], apart[1], x, apart[2])  # type: ignore[arg-type]
        inputs = [part for i in wanted if (part := apart[i]) is not None]
        gradients = list(torch.autograd.grad(terms, inputs, grad[:2], create_graph=torch.is_grad_enabled()))
    else:
        needed = sum([1 << i for i in wanted])
        arguments = (grad, hidden, weight, crow, col, values, bias, ctx.bf16, log_sums, logits, needed)
        gradients = torch.ops.dmrec_ext._multinomial_terms_backward.default(*arguments)
    result: list[Tensor | None] = [None] * 8
    for i, gradient in zip(wanted, gradients, strict=True):
        result[(0, 1, 5)[i]] = gradient
    return tuple(result)


def _fake(hidden: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    bf16, save = others[-2:]
    check_tensor("multinomial_terms", "hidden", hidden, 2)
    check_tensor("multinomial_terms", "weight", weight, 2)
    arithmetic = torch.float64 if weight.dtype == torch.float64 else torch.float32
    rows = hidden.shape[0]
    size = (rows, weight.shape[0]) if save else (0, 0)
    return (
        hidden.new_empty((3, rows), dtype=torch.float64),
        hidden.new_empty((2, rows), dtype=arithmetic),
        hidden.new_empty(size, dtype=torch.bfloat16 if bf16 else arithmetic),
    )


def _fake_backward(grad: Tensor, hidden: Tensor, weight: Tensor, *others: Any) -> list[Tensor]:
    bias, needed = others[3], others[-1]
    of = [torch.empty_like(hidden, memory_format=torch.contiguous_format)] if needed & 1 else []
    of += [torch.empty_like(weight, memory_format=torch.contiguous_format)] if needed & 2 else []
    return of + ([torch.empty_like(bias, memory_format=torch.contiguous_format)] if needed & 4 else [])


if NATIVE["multinomial_nll"]:
    torch.library.register_fake("dmrec_ext::multinomial_terms", _fake)
    torch.library.register_fake("dmrec_ext::_multinomial_terms_backward", _fake_backward)
    torch.library.register_autograd("dmrec_ext::multinomial_terms", _backward, setup_context=_setup)

"""Linear layer and softmax negative log-likelihood with sparse targets: public function."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..csr import Csr


def multinomial_nll(
    hidden: Tensor, weight: Tensor, x: Csr, bias: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    r"""Multinomial negative log-likelihood of sparse interactions under a softmax over all items.

    .. math:: -\sum_i x_{ui} \log \mathrm{softmax}(H_u W^T + b)_i

    The reconstruction term of Eq. (19), Zhang et al., SIGIR 2025 (Liang et al., WWW 2018, Eq. 2).

    Args:
        hidden: (B, H) last hidden layer of the decoder; float32, float64, float16 or bfloat16.
        weight: (N, H) output layer, one row per item.
        x: (B, N) sparse targets; ``values`` of any floating-point dtype, None for ones.
        bias: (N,) added to the logits.
        reduction: ``"mean"`` over users, ``"sum"`` or ``"none"``.

    Returns:
        () loss in nats, or (B,) for ``"none"``. A user without targets costs 0; the
        mean over no user at all is NaN, as torch has it.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, an option is unknown, or ``x`` is no well-formed CSR matrix.

    >>> import torch
    >>> x = Csr(torch.tensor([0, 1]), torch.tensor([2]), None, 4)
    >>> multinomial_nll(torch.zeros(1, 2), torch.zeros(4, 2), x)  # log 4
    tensor(1.3863)
    """
    return reference.multinomial_nll(hidden, weight, x, bias, reduction=reduction)

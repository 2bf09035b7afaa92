"""InfoNCE (van den Oord et al., 2018): cross entropy of cosines over a temperature."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dmrec_ext import multinomial_nll


def info_nce(query: Tensor, pool: Tensor, target: Tensor, temperature: float, *, floor: float = 0.0) -> Tensor:
    """-log(exp(cos(q, p_t) / tau) / sum_j exp(cos(q, p_j) / tau)), for each query.

    The products are in float32 whatever autocast says: cosines over a small temperature lose too much in bfloat16.

    Args:
        query: (B, d).
        pool: (P, d) rows to tell apart, the right ones among them; a row may be there several times.
        target: (B,) int64, the row of the pool that belongs to each query.
        temperature: tau.
        floor: added to the probabilities before their logarithm, as some released programs do.

    Returns:
        () nats, the mean over queries.
    """
    computes = query.device.type in ("cpu", "cuda")  # others have no autocast
    with torch.autocast(query.device.type, enabled=False) if computes else nullcontext():
        unit = nn.functional.normalize(at_least_float32(query), dim=1) / temperature
        others = nn.functional.normalize(at_least_float32(pool), dim=1)
        if not floor:
            return multinomial_nll(unit, others, target)
        nll = multinomial_nll(unit, others, target, reduction="none")
        return -torch.logaddexp(-nll, nll.new_tensor(math.log(floor))).mean()


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, in float32 if it has 16 bits."""
    return x if x.dtype == torch.float64 else x.float()

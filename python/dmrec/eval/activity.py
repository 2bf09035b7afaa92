"""Which dimensions of a posterior tell users apart.

The activity of dimension k is Var_u(E[z_k | u]), the variance over users of the posterior's mean; Burda et al. (ICLR
2016) call a dimension active where it is above 0.01. Where means are sums over a user's interactions, they also grow
with their number without any taste in them; so the share of the variance that the logarithm of this number explains
is given beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.base import Model, TrainingData, evaluating
from ..runtime import move
from .ranking import blocks

ACTIVE = 0.01


def activity_of(model: Model, data: TrainingData) -> dict[str, dict[str, list[float]]]:
    """For each posterior of the model, ``variance`` and ``explained_by_length`` of its D dimensions.

    Over all users that have interactions. Empty for a model without posteriors.
    """
    lengths = data.interactions.crow.diff()
    sums: dict[str, Tensor] = {}
    users = lengths.nonzero().squeeze(1)
    with evaluating(model):
        for block in blocks(users):
            weights = torch.stack([torch.ones(len(block)), lengths[block].log()]).double()
            for name, means in model.posterior_means(move(data.users(block), model.device)).items():
                mu = means.double().cpu()
                rows = torch.cat([weights @ mu, mu.square().sum(0, keepdim=True)])  # sum mu, sum log n mu, sum mu^2
                sums[name] = sums.get(name, 0) + rows
    log_lengths = lengths[users].double().log()
    found = {}
    for name, rows in sums.items():
        mean, with_length, square = rows / len(users)
        variance = (square - mean.square()).clamp_min(0)
        covariance = with_length - mean * log_lengths.mean()
        explained = covariance.square() / (variance * log_lengths.var(correction=0)).clamp_min(1e-30)
        found[name] = {"variance": _rounded(variance), "explained_by_length": _rounded(explained.clamp_max(1))}
    return found


def _rounded(values: Tensor) -> list[float]:
    """Six digits each."""
    return [float(f"{value:.6g}") for value in values.tolist()]

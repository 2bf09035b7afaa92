"""L_DM of Eq. 19, Zhang et al., SIGIR 2025: the regulariser and the matching term of a batch."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dmrec_ext import gaussian_kl, matching_loss, reference

from ..vae.gaussian import Gaussian
from .options import MatchingConfig


class Posteriors(NamedTuple):
    """The Gaussians of a batch: of the interactions, of language, and their fusion, which is decoded."""

    collaborative: Gaussian
    language: Gaussian
    fused: Gaussian


class Divergence(Protocol):
    """A loss over the posteriors of a batch."""

    def draw_beta(self) -> float:
        """The weight of the matching term in this batch."""
        ...

    def loss(self, q: Posteriors, beta: float, weight: float = 1.0) -> Tensor:
        """``weight`` times the mean over users, in nats: ()."""
        ...

    def terms(self, q: Posteriors) -> dict[str, Tensor]:
        """The parts of the loss for the log, means over users: () each."""
        ...


class PriorKL:
    """The KL divergence of the fused posterior from the standard normal alone: strategy "none"."""

    def draw_beta(self) -> float:
        """There is no matching term."""
        return 0.0

    def loss(self, q: Posteriors, beta: float, weight: float = 1.0) -> Tensor:
        """Mean KL(q || N(0, I))."""
        return gaussian_kl(*q.fused, reduction="mean", weight=weight)

    def terms(self, q: Posteriors) -> dict[str, Tensor]:
        """``kl_prior``."""
        return {"kl_prior": reference.gaussian_kl(*q.fused).mean()}


class MatchingLoss:
    """One of the matching strategies, with beta fixed or drawn from Beta(a, a) for each batch."""

    def __init__(self, options: MatchingConfig, fusion: str) -> None:
        self.options, self.fusion = options, fusion

    def draw_beta(self) -> float:
        """The weight of this batch."""
        if self.options.beta_concentration is None:
            return self.options.beta
        a = torch.tensor(self.options.beta_concentration)
        return float(torch.distributions.Beta(a, a).sample())

    def loss(self, q: Posteriors, beta: float, weight: float = 1.0) -> Tensor:
        """Mean of `dmrec_ext.matching_loss`."""
        options = self.options
        return matching_loss(
            *q.collaborative,
            *q.language,
            strategy=options.strategy,
            beta=beta,
            alpha=options.alpha,
            interpolation=options.interpolation,
            squared=options.squared,
            eps=options.eps,
            fusion=self.fusion,
            reduction="mean",
            weight=weight,
        )

    def terms(self, q: Posteriors) -> dict[str, Tensor]:
        """``kl_prior``, and the divergence that beta weighs: ``w2``, ``composite`` or ``kl_language``."""
        options, kl_prior = self.options, reference.gaussian_kl(*q.fused).mean()
        match options.strategy:
            case "godm":
                w2 = reference.gaussian_w2(*q.collaborative, *q.language, squared=options.squared, eps=options.eps)
                return {"kl_prior": kl_prior, "w2": w2.mean()}
            case "cpdm":
                composite = reference.composite_prior(
                    *q.fused, *q.language, alpha=options.alpha, interpolation=options.interpolation
                )
                return {"kl_prior": kl_prior, "composite": composite.mean()}
            case _:
                return {"kl_prior": kl_prior, "kl_language": reference.gaussian_kl(*q.fused, *q.language).mean()}


def matching_of(options: MatchingConfig, fusion: str) -> Divergence:
    """The loss that the options name."""
    return PriorKL() if options.strategy == "none" else MatchingLoss(options, fusion)

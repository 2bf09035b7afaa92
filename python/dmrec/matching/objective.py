"""L_DM of Eq. 19, Zhang et al., SIGIR 2025: regulariser and matching term of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmrec_ext import gaussian_kl, matching_loss, reference

Pair = tuple[Tensor, Tensor]  # mean and log-variance, (B, D) each


class Matching(Protocol):
    """A loss over the posteriors of a batch."""

    def loss(self, collaborative: Pair, language: Pair | None, fused: Pair) -> Tensor:
        """Mean over users, in nats."""
        ...

    def terms(self, collaborative: Pair, language: Pair | None, fused: Pair) -> dict[str, float]:
        """The parts of the loss, for the log."""
        ...


@dataclass(frozen=True)
class Prior:
    """The KL divergence of q from the standard normal and nothing else: a base model, or the ablation "Add"."""

    def loss(self, collaborative: Pair, language: Pair | None, fused: Pair) -> Tensor:
        """Mean KL(q || N(0, I))."""
        return gaussian_kl(*fused).mean()

    def terms(self, collaborative: Pair, language: Pair | None, fused: Pair) -> dict[str, float]:
        """``kl_prior``."""
        return {"kl_prior": _mean(reference.gaussian_kl(*fused))}


@dataclass(frozen=True)
class Objective:
    """One of the matching strategies; beta fixed, or drawn from Beta(a, a) for each batch."""

    strategy: str
    beta: float
    beta_concentration: float | None = None
    alpha: float = 0.5
    interpolation: str = "log_linear"
    squared: bool = False
    eps: float = 1e-7
    fusion: str = "add"

    def draw_beta(self) -> float:
        """This batch's weight."""
        if self.beta_concentration is None:
            return self.beta
        a = torch.tensor(self.beta_concentration)
        return float(torch.distributions.Beta(a, a).sample())

    def loss(self, collaborative: Pair, language: Pair | None, fused: Pair) -> Tensor:
        """Mean of `dmrec_ext.matching_loss`."""
        assert language is not None, "a matching strategy needs the language posterior"
        return matching_loss(
            *collaborative,
            *language,
            strategy=self.strategy,
            beta=self.draw_beta(),
            alpha=self.alpha,
            interpolation=self.interpolation,
            squared=self.squared,
            eps=self.eps,
            fusion=self.fusion,
        ).mean()

    @torch.no_grad()
    def terms(self, collaborative: Pair, language: Pair | None, fused: Pair) -> dict[str, float]:
        """``kl_prior`` and the divergence that is weighted by beta: ``w2``, ``composite`` or ``kl_language``."""
        assert language is not None, "a matching strategy needs the language posterior"
        terms = {"kl_prior": _mean(reference.gaussian_kl(*fused))}
        match self.strategy:
            case "godm":
                w2 = reference.gaussian_w2(*collaborative, *language, squared=self.squared, eps=self.eps)
                terms["w2"] = _mean(w2)
            case "cpdm":
                options = {"alpha": self.alpha, "interpolation": self.interpolation}
                terms["composite"] = _mean(reference.composite_prior(*fused, *language, **options))  # type: ignore[arg-type]
            case _:
                terms["kl_language"] = _mean(reference.gaussian_kl(*fused, *language))
        return terms


def _mean(rows: Tensor) -> float:
    return float(rows.detach().mean())

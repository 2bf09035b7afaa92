"""What the training loop trains: rows to shuffle, batches of them, a loss, a ranking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from dmrec_ext import Csr, multinomial_nll

from ..config import AnnealingConfig
from ..eval.ranking import Ranker
from ..matching import Matching
from ..models.backbone import Moment
from ..models.lightgcn import LightGcn
from ..models.recommender import Posteriors, Recommender

Losses = dict[str, Tensor]  # () each: ``loss``, which is minimised, and its parts


class Task(Protocol):
    """A model and how it learns. ``module`` holds all of its state."""

    n_rows: int  # of what an epoch goes through, once each

    @property
    def module(self) -> nn.Module:
        """Parameters and buffers."""
        ...

    @property
    def ranker(self) -> Ranker:
        """What recommends, trained as far as it is now."""
        ...

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """For the optimiser."""
        ...

    def batch(self, rows: Tensor) -> Any:
        """What `loss` needs of rows (B,) int64."""
        ...

    def loss(self, batch: Any, moment: Moment) -> Losses:
        """Of a batch."""
        ...

    def terms(self) -> dict[str, float]:
        """More of the last batch, for the log."""
        ...


class GenerativeTask:
    """Users in batches: reconstruction, and the divergences at their annealed weight."""

    def __init__(self, recommender: Recommender, matching: Matching, train: Csr, annealing: AnnealingConfig) -> None:
        self.module = self.ranker = recommender
        self.matching, self.train, self.annealing, self.n_rows = matching, train, annealing, train.n_rows
        self.posteriors: Posteriors | None = None

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """The backbone's, and the meta-network's."""
        network = self.module.meta_network
        language = [] if network is None else [{"params": list(network.parameters())}]
        return [*self.module.backbone.parameter_groups(learning_rate), *language]

    def batch(self, rows: Tensor) -> tuple[Csr, Tensor]:
        """Interactions of users, and their numbers."""
        return self.train.rows(rows), rows

    def loss(self, batch: tuple[Csr, Tensor], moment: Moment) -> Losses:
        """Means over users, in nats."""
        x, users = batch
        self.posteriors = self.module.posteriors(x, users)
        decoded, auxiliary = self.module.backbone.reconstruct(self.posteriors.fused, moment)
        reconstruction = multinomial_nll(decoded.hidden, decoded.weight, x, decoded.bias)
        divergence = self.matching.loss(*self.posteriors)
        loss = reconstruction + annealed(self.annealing, moment.step) * divergence
        parts = {"reconstruction": reconstruction, "matching": divergence}
        if auxiliary is not None:
            loss, parts["auxiliary"] = loss + auxiliary, auxiliary
        return {"loss": loss, **parts}

    def terms(self) -> dict[str, float]:
        """The divergences one by one."""
        assert self.posteriors is not None, "asked for before the first batch"
        return self.matching.terms(*self.posteriors)


class PairwiseTask:
    """Interactions in batches, each against an item drawn at random."""

    def __init__(self, model: LightGcn) -> None:
        self.module = model
        self.n_rows = len(model.interactions)

    @property
    def ranker(self) -> Ranker:
        """By vectors that are smoothed once, here."""
        return self.module.ranker()

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """All parameters."""
        return [{"params": list(self.module.parameters()), "lr": learning_rate}]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Users, items, other items."""
        return self.module.pairs(rows)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor], moment: Moment) -> Losses:
        """Means over pairs."""
        del moment
        order, norms = self.module.loss(*batch)
        return {"loss": order + norms, "order": order, "norms": norms}

    def terms(self) -> dict[str, float]:
        """None."""
        return {}


def annealed(annealing: AnnealingConfig, step: int) -> float:
    """The weight of the divergences at a step."""
    if annealing.steps == 0:
        return annealing.cap
    return min(annealing.cap, annealing.cap * step / annealing.steps)

"""A variational autoencoder over the interactions of users: the base model that DMRec extends.

With q = N(mu, sigma^2) the posterior of a user and z a sample from it, a step minimises

    -sum_i x_i log softmax(decode(z))_i  +  annealing * KL(q || N(0, I)),

the mean over the users of a batch, in nats (Liang et al., WWW 2018, Eq. 5 to 7).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dmrec_ext import Csr, gaussian_kl

from ..base import Losses, ModelConfig, Step, TrainedModel, TrainingData, UserBatch
from .backbone import Backbone
from .gaussian import Gaussian
from .item_text import ItemLinear, ItemTextConfig, ItemTexts, unit_vectors
from .layers import drop_interactions


class BackboneConfig(ModelConfig):
    """Options of a generative recommender. Alone it is trained as a `Vae`; with language, as `Dmrec`."""

    item_text: ItemTextConfig | None = None

    width: ClassVar[str | None] = None
    """The option that `table_widths` rise with; None where `unsharded`."""

    def texts(self, data: TrainingData) -> ItemTexts | None:
        """The texts of the items, where the model reads them."""
        if self.item_text is None:
            return None
        assert data.item_text is not None, "a run whose model reads the texts of items has their vectors"
        taken = data.item_counts() > 0
        return ItemTexts(unit_vectors(data.item_text), taken)

    @property
    def table_widths(self) -> tuple[int, int] | None:
        """The widths of the rows that each item has in the encoder and in the decoder; None where `unsharded`."""
        return None

    @abstractmethod
    def backbone(self, data: TrainingData) -> Backbone:
        """The network; initial weights follow torch's global seed."""

    def build(self, data: TrainingData) -> Vae:
        """The network, trained by reconstruction and KL divergence."""
        return Vae(self.backbone(data), data)


class Vae(TrainedModel):
    """A backbone, its reconstruction and its KL divergence. An example is a user."""

    def __init__(self, backbone: Backbone, data: TrainingData) -> None:
        super().__init__()
        self.backbone, self.data, self.n_examples = backbone, data, data.n_users

    @property
    def item_state(self) -> tuple[str, ...]:
        """Those of the backbone."""
        return tuple(f"backbone.{name}" for name in self.backbone.item_state)

    @property
    def knows_new_items(self) -> bool:
        """Whether an item without interactions has a score that says something: the decoder reads texts."""
        return any(isinstance(module, ItemLinear) and module.text is not None for module in self.backbone.modules())

    def batch(self, index: Tensor) -> UserBatch:
        """The users ``index``."""
        return self.data.users(index)

    def loss(self, batch: UserBatch, step: Step) -> Losses:
        """Negative evidence lower bound, with parts ``reconstruction`` and ``kl``."""
        posterior = self.posterior(batch)
        parts = self.reconstruction(batch.interactions, posterior, step)
        return total(parts, "kl", lambda weight: gaussian_kl(*posterior, reduction="mean", weight=weight), step)

    def posterior(self, batch: UserBatch) -> Gaussian:
        """The posterior of each user that is decoded from."""
        x = batch.interactions
        return self.backbone.encode(x, self.dropped(x))

    def posterior_means(self, batch: UserBatch) -> dict[str, Tensor]:
        """That of `posterior`."""
        return {"collaborative": self.posterior(batch).mu}

    def dropped(self, x: Csr) -> Csr:
        """``x`` after input dropout, in training."""
        return drop_interactions(x, self.backbone.input_dropout) if self.training else x

    def reconstruction(self, x: Csr, posterior: Gaussian, step: Step) -> Losses:
        """``reconstruction`` of x (B, N), and ``auxiliary`` where the backbone has a loss of its own."""
        decoded, auxiliary = self.backbone.reconstruct(posterior, step)
        parts = {"reconstruction": decoded.nll(x)}
        return parts if auxiliary is None else {**parts, "auxiliary": auxiliary}

    def parameter_groups(self, learning_rate: float) -> Iterable[dict[str, Any]]:
        """The groups of the backbone."""
        return self.backbone.parameter_groups(learning_rate)

    @torch.no_grad()
    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k best items of each user, by scores in float32 whatever the model was trained with."""
        return self.backbone.decode(self.backbone.infer(self.posterior(batch))).rank(self.rank_items, k, exclude)

    @torch.no_grad()
    def item_scores(self, batch: UserBatch) -> Tensor:
        """(B, N): logarithms of the items' probabilities, up to a constant of the user."""
        return self.backbone.decode(self.backbone.infer(self.posterior(batch))).whole().scores()

    @torch.no_grad()
    def item_tables(self) -> list[Tensor]:
        """Those of the decoder's last layer."""
        decoded = self.backbone.decode(torch.zeros(1, self.backbone.latent, device=self.device))
        return [weight.detach() for weight in decoded.tables()]

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """(N, H): the rows of the decoder's last layer."""
        decoded = self.backbone.decode(torch.zeros(1, self.backbone.latent, device=self.device))
        return decoded.whole().weight.detach()


def total(parts: Losses, name: str, divergence: Callable[[float], Tensor], step: Step) -> Losses:
    """``parts`` with a divergence called ``name``, and their sum as ``loss``, in which it has its annealed weight.

    ``divergence(weight)`` is the divergence times a weight: multiplied inside, its gradient needs no further pass.
    """
    weight = step.annealing
    weighted = divergence(weight)
    with torch.no_grad():
        parts = {**parts, name: weighted / weight if weight else divergence(1.0)}
    loss = parts["reconstruction"] + weighted
    if "auxiliary" in parts:
        loss = loss + parts["auxiliary"]
    return {"loss": loss, **parts}

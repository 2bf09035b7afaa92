"""Rankings between a model's and that of the texts alone.

With p_model the model's probabilities of the items for a user and p_text = softmax(cos(u, t_i) / T) those of the texts,
u the user's text vector and t_i the item's, items are ranked by

    w log p_model(i) + (1 - w) log p_text(i).

T is fitted: that of the largest likelihood of interactions that users have. A decoder that knows what is popular gives
much the same items to any two texts; this is the knob for more of what was asked for.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from dmrec_ext import Csr, csr_aggregate

from ..models.base import Model, TrainingData, UserBatch
from ..models.vae.model import Vae

MOST_SCORES = 1 << 26  # of users and items that a temperature is fitted to
MOST_USERS = 1024
BOUNDS = (1e-3, 10.0)  # of temperatures


class Blended(Model):
    """A model whose ranking is ``weight`` of its own and the rest of the texts'."""

    def __init__(self, model: Vae, items: Tensor, temperature: float, weight: float) -> None:
        """``items``: (N, E) unit text vectors, on the model's device."""
        super().__init__()
        self.model, self.temperature, self.weight = model, temperature, weight
        self.register_buffer("items", items, persistent=False)
        self._rows: Tensor | None = None  # of the model, the first of those from which the table was made
        self._table, self._bias = items, items.new_zeros(0)

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k best items of each user, by the sum of weighted logarithms, up to a constant of the user."""
        backbone = self.model.backbone
        decoded = backbone.decode(backbone.infer(self.model.posterior(batch)))
        texts = text_of_users(batch, self.get_buffer("items")) * ((1 - self.weight) / self.temperature)
        both = torch.cat([self.weight * decoded.hidden, texts], 1)
        if self._rows is not decoded.tables()[0]:
            _, rows, bias = decoded.whole()
            self._rows, self._table = decoded.tables()[0], torch.cat([rows, self.get_buffer("items")], 1)
            self._bias = rows.new_zeros(len(rows)) if bias is None else self.weight * bias
        return self.rank_items(both, self._table, k, bias=self._bias, exclude=exclude)


def text_of_users(batch: UserBatch, items: Tensor) -> Tensor:
    """(B, E) unit vectors: of the users' texts, or where there is none the direction of their items' (N, E)."""
    of_items = csr_aggregate(batch.interactions, items)
    texts = batch.text_vectors
    if texts is not None:
        of_items = torch.where(texts.any(1, keepdim=True), texts.to(of_items.dtype), of_items)
    return torch.nn.functional.normalize(of_items, dim=1)


def fit_temperature(data: TrainingData, wanted: Csr, items: Tensor) -> float:
    """T of the largest likelihood of the interactions ``wanted`` (M, N) under softmax(cos / T), on a sample of users.

    Items (N, E) are unit vectors on the CPU.
    """
    users = (wanted.crow.diff() > 0).nonzero().squeeze(1)
    count = max(1, min(MOST_USERS, MOST_SCORES // len(items), len(users)))
    chosen = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))[:count]].sort().values
    cosine = text_of_users(data.users(chosen), items) @ items.T
    target = wanted.rows(chosen)
    of_targets = cosine[target.row_of_entry(), target.col]
    lengths = target.crow.diff().to(cosine.dtype)

    def nll(log_temperature: float) -> float:
        scale = float(torch.tensor(-log_temperature).exp())
        normaliser = torch.logsumexp(cosine * scale, dim=1)
        return float((normaliser * lengths).sum() - of_targets.sum() * scale) / float(lengths.sum())

    bounds = torch.tensor(BOUNDS).log().tolist()
    return float(torch.tensor(minimize_scalar(nll, bounds=bounds, method="bounded").x).exp())

"""L3AE (Moon et al., CIKM 2025): EASE drawn towards an item-item model of the items' texts, in closed form.

With T (N, E) the text vectors and X (M, N) the interactions,

    C = argmin |T^T - T^T C|^2 + mu |C|^2                            diag C = 0
    B = argmin |X - X B|^2 + lambda_x |B|^2 + lambda_t |B - C|^2     diag B = 0

and a user's scores are x B. The model is determined by rho = lambda_x + lambda_t and the share lambda_t / rho: with
P = (X^T X + rho I)^{-1} and Q = P C,

    B_ij = lambda_t Q_ij - P_ij (1 + lambda_t Q_jj) / P_jj           for i != j;

a share of 0 is EASE. A share above 1 has a negative lambda_x, as the published settings do. C needs no inverse of an
N x N matrix: with H = T (T^T T + mu I)^{-1} T^T it is C_ij = H_ij / (1 - H_jj). Exact, solved in float64: O(N^3) time
and O(N^2) memory.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import scipy.linalg
import torch
from pydantic import Field

from ..base import Scorer, TrainingData, WithItemEmbeddings, register
from .item_item import ItemItem, Search, gram_of, inverse, too_many

Positive = Annotated[float, Field(gt=0)]


@register
class L3aeConfig(WithItemEmbeddings):
    """L3AE; all three weights are chosen on validation."""

    kind: Literal["l3ae"] = "l3ae"
    unsharded: ClassVar[str | None] = "its matrix has a row and a column for each item"
    is_random: ClassVar[bool] = False
    regularisation: tuple[Positive, ...] = Field(
        (10, 30, 100, 200, 500), min_length=1, description="values of rho = lambda_x + lambda_t to try"
    )
    text_share: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0, 0.5, 1, 1.5, 2), min_length=1, description="values of lambda_t / rho to try; 0 is EASE"
    )
    text_regularisation: tuple[Positive, ...] = Field(
        (1, 5, 10, 50), min_length=1, description="values of mu, of the model of the texts, to try"
    )

    def refusal(self, n_users: int, n_items: int) -> str | None:
        """Refuses catalogues whose item-item matrix does not fit into memory."""
        del n_users
        return too_many("L3AE", n_items)

    def build(self, data: TrainingData) -> L3ae:
        """The model, not fitted."""
        return L3ae(data, self)


class L3ae(ItemItem):
    """Linear item-item model with a linear model of texts as its prior."""

    def __init__(self, data: TrainingData, options: L3aeConfig) -> None:
        super().__init__(data.n_items)
        self.options, self.texts = options, data.item_embeddings

    def fit(self, data: TrainingData, score: Scorer) -> dict[str, Any]:
        """Tries all values and keeps those with the best score, which are returned by the names of the options."""
        assert self.texts is not None, "a run of L3AE has vectors of the items"
        texts = np.asarray(self.texts, dtype=np.float64)
        gram, search = gram_of(data.interactions), Search(self, score)
        options = self.options
        for regularisation in options.regularisation:
            lower = inverse(gram, regularisation)
            for number, mu in enumerate(options.text_regularisation):
                with_prior = any(options.text_share)
                product = scipy.linalg.blas.dsymm(1.0, lower, item_model(texts, mu), lower=1) if with_prior else None
                for share in options.text_share:
                    if not share and number:
                        continue  # the texts do not matter
                    weights = combined(lower, product, share * regularisation)
                    settings = {"regularisation": regularisation, "text_share": share, "text_regularisation": mu}
                    search.add(torch.from_numpy(weights), **settings)
        return search.end()


def item_model(texts: np.ndarray, regularisation: float) -> np.ndarray:
    """C (N, N) float64 in column order, from T (N, E) float64."""
    inner = texts.T @ texts
    np.fill_diagonal(inner, inner.diagonal() + regularisation)
    weights = np.asfortranarray((scipy.linalg.solve(inner, texts.T, assume_a="pos").T) @ texts.T)
    weights /= 1 - weights.diagonal()
    np.fill_diagonal(weights, 0.0)
    return weights


def combined(lower: np.ndarray, product: np.ndarray | None, weight: float) -> np.ndarray:
    """B (N, N) float32 from the lower triangle of P, from Q = P C, and lambda_t."""
    of_text = np.zeros(len(lower)) if product is None else product.diagonal()
    scale = (1 + weight * of_text) / lower.diagonal()
    weights = np.tril(lower)
    weights += np.tril(lower, -1).T
    weights *= -scale
    if product is not None:
        weights += weight * product
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)

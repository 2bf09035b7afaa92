"""Whether a profile is about anything that the items are about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.dataset import Dataset
from ..data.entities import clean
from ..language.encoders import TextEncoder, encoder_of
from ..models.vae.item_text import unit_vectors

NEAREST = 20  # items whose mean cosine says how near a text is
SAMPLE = 200  # users of the dataset whose texts are looked at
SHARE = 2 / 3  # of what all but a hundredth of these reach


def unlike_items(
    dataset: Dataset,
    vectors: str,
    profiles: Sequence[str],
    encoder: TextEncoder | None = None,
    key_variable: str | None = None,
    loaded: dict[str, TextEncoder] | None = None,
) -> list[bool]:
    """Whether each text is unlike those of all items: nonsense, or about what is not on offer.

    A text is as near to the items as its mean cosine with the nearest `NEAREST` of them. It is unlike them where that
    is less than `SHARE` of what 99 % of the dataset's own users' texts reach.
    """
    found = dataset.vectors(vectors)
    items = unit_vectors(found.items)
    rows = np.flatnonzero(np.any(np.asarray(found.users) != 0, axis=1))
    chosen = np.random.default_rng(0).permutation(rows)[:SAMPLE]
    if not len(chosen):
        return [False] * len(profiles)
    texts = [clean(profile) for profile in profiles]
    vectors_of = encoder_of(dataset, vectors, encoder, key_variable, {} if loaded is None else loaded).encode(texts)
    usual = torch.quantile(_nearness(np.asarray(found.users)[chosen], items), 0.01)
    return (_nearness(vectors_of, items) < SHARE * usual).tolist()


def _nearness(texts: np.ndarray, items: torch.Tensor) -> torch.Tensor:
    cosine = unit_vectors(texts) @ items.T
    return cosine.topk(min(NEAREST, len(items)), dim=1).values.mean(1)

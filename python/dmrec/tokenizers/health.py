"""How well codes use their codebooks, and how many items they tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DmrecError
from .collisions import groups_of


def health_of(codes: np.ndarray, size: int) -> dict[str, Any]:
    """Figures that JSON can hold: for each level how many codes are used, the perplexity of their use (the exponential
    of its entropy) and how many distinct prefixes there are; items that share a tuple, and the largest such group.
    """
    n, levels = codes.shape
    used, perplexity, prefixes = [], [], []
    for level in range(levels):
        counts = np.bincount(codes[:, level], minlength=size)
        share = counts[counts > 0] / max(n, 1)
        used.append(len(share))
        perplexity.append(round(float(np.exp(-(share * np.log(share)).sum())), 1))
        prefixes.append(len(np.unique(codes[:, : level + 1], axis=0)))
    groups = [len(rows) for rows in groups_of(codes)]
    return {
        "levels": levels,
        "size": size,
        "used": used,
        "perplexity": perplexity,
        "prefixes": prefixes,
        "items in collisions": sum(groups),
        "largest collision": max(groups, default=0),
    }


def churn(before: np.ndarray, after: np.ndarray) -> float:
    """The share of items whose tuple changed."""
    return float((before != after).any(1).mean()) if before.shape == after.shape else 1.0


def check_health(codes: np.ndarray, size: int) -> None:
    """Refuses codes of a collapsed tokenizer.

    Raises:
        DmrecError: a level uses a single code although the levels before do not tell items apart yet.
    """
    found = health_of(codes, size)
    for level, (used, before) in enumerate(zip(found["used"], [1, *found["prefixes"]], strict=False)):
        if used < 2 <= len(codes) and before < min(len(codes), size) / 2:
            raise DmrecError(
                f"all items have the same code on level {level + 1}: the tokenizer has collapsed. rk-means cannot; for "
                "rq-vae try initialisation=kmeans, reduction=sum or a smaller learning_rate"
            )

"""Groups of users by the length of their histories."""

from __future__ import annotations

import numpy as np


def equal_groups(interactions: np.ndarray, count: int) -> np.ndarray:
    """(U,) the group of each user, from 0: groups of rising histories with about equal shares of all interactions.

    Users with equally long histories are in one group.
    """
    lengths, sizes = np.unique(interactions, return_counts=True)
    before = np.concatenate([[0], np.cumsum(lengths * sizes)[:-1]])
    share = (before + lengths * sizes / 2) / max((lengths * sizes).sum(), 1)
    return np.asarray(np.minimum(share * count, count - 1).astype(int)[np.searchsorted(lengths, interactions)])

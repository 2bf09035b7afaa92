"""Balanced assignment to codes by Sinkhorn's iterations, as in LETTER and RecForest's relatives."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

EPS, ROUNDS = 0.003, 50


def sinkhorn(distance: np.ndarray, eps: float = EPS, rounds: int = ROUNDS) -> np.ndarray:
    """(n,) int64: a code for each row of ``distance`` (n, C), so that codes are used evenly.

    Distances are mapped to [-1, 1] over all rows; exp(-d / eps) is scaled in turn so that columns and rows have equal
    sums, in logarithms, for it leaves every range.
    """
    distance = np.asarray(distance, dtype=np.float64)
    high, low = distance.max(), distance.min()
    amplitude = max((high - low) / 2, 1e-300)
    log_q = -((distance - (high + low) / 2) / amplitude) / eps if high > low else np.zeros_like(distance)
    n, size = distance.shape
    for _ in range(rounds):
        log_q = log_q - logsumexp(log_q, axis=0, keepdims=True) - np.log(size)
        log_q = log_q - logsumexp(log_q, axis=1, keepdims=True) - np.log(n)
    return np.asarray(log_q.argmax(1))

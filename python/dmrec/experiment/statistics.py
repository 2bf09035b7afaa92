"""Paired comparisons: over seeds, or over users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its statistics are imported where they are first used


@dataclass(frozen=True)
class Paired:
    """Of b - a, pair by pair. What cannot be had from so few or from equal pairs is NaN."""

    pairs: int
    difference: float  # mean
    low: float  # of the 95 % interval of the mean, by Student's t
    high: float
    effect: float  # Cohen's d of the differences: mean over standard deviation
    p_t: float  # two-sided, paired t-test
    p_wilcoxon: float  # two-sided, signed ranks; equal pairs are left out


def compare(a: np.ndarray, b: np.ndarray) -> Paired:
    """``a`` and ``b`` (n,) hold the values of the same seeds or users."""
    difference = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    difference[np.abs(difference) < 1e-12] = 0.0  # what only the rounding of means over seeds left
    n = len(difference)
    mean = float(difference.mean()) if n else math.nan
    deviation = float(difference.std(ddof=1)) if n > 1 else math.nan
    if not deviation > 1e-9 * abs(mean):  # all alike, but for rounding
        return Paired(n, mean, math.nan, math.nan, math.nan, math.nan, math.nan)
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    p_t = float(scipy.stats.ttest_1samp(difference, 0.0).pvalue)
    p_wilcoxon = float(scipy.stats.wilcoxon(difference[difference != 0]).pvalue)
    return Paired(n, mean, mean - half, mean + half, mean / deviation, p_t, p_wilcoxon)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, 1979); NaN stays, and does not count."""
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected = [math.nan] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[i] = highest
    return corrected

"""Paired tests over seeds or over users, and the correction of their p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its statistics are imported where they are first used


@dataclass(frozen=True)
class PairedTest:
    """Statistics of the differences b - a of pairs; NaN where there are too few pairs, or all differences are equal."""

    pairs: int
    difference: float  # mean
    low: float  # 95 % interval of the mean, by Student's t
    high: float
    effect: float  # Cohen's d of the differences: mean over standard deviation
    p_t: float  # two-sided, paired t-test
    p_wilcoxon: float  # two-sided, signed ranks; equal pairs are left out


def paired_test(a: np.ndarray, b: np.ndarray) -> PairedTest:
    """Tests whether ``b`` differs from ``a``; both (n,) hold the values of the same seeds or users."""
    difference = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    difference[np.abs(difference) < 1e-12] = 0.0  # rounding errors of means over seeds
    n = len(difference)
    mean = float(difference.mean()) if n else math.nan
    deviation = float(difference.std(ddof=1)) if n > 1 else math.nan
    if not deviation > 1e-9 * abs(mean):  # equal differences, up to rounding
        return PairedTest(n, mean, math.nan, math.nan, math.nan, math.nan, math.nan)
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    p_t = float(scipy.stats.ttest_1samp(difference, 0.0).pvalue)
    p_wilcoxon = float(scipy.stats.wilcoxon(difference[difference != 0]).pvalue)
    return PairedTest(n, mean, mean - half, mean + half, mean / deviation, p_t, p_wilcoxon)


def holm(values: Sequence[float]) -> list[float]:
    """Corrects p-values for multiple comparisons by Holm's method (1979); NaN stays NaN and is not counted."""
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected = [math.nan] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[i] = highest
    return corrected

"""Tests over seeds, over users and over both, and the correction of their p-values."""

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


@dataclass(frozen=True)
class Interval:
    """Of a difference b - a of means, over seeds and users; NaN where there is nothing to draw from."""

    low: float  # 95 %
    high: float
    p: float  # two-sided, of a normal distribution with the deviation of the draws


DRAWS = 10_000
NO_INTERVAL = Interval(math.nan, math.nan, math.nan)


def resampled_means(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, C): the means of ``values`` (C, U) over users drawn with replacement, the same users for all C."""
    random, n_users = np.random.default_rng(seed), values.shape[1]
    means, columns = np.empty((draws, len(values))), values.T.astype(np.float32)  # 24 bits are more than draws tell
    for start in range(0, draws, 256):
        stop = min(start + 256, draws)
        counts = [np.bincount(random.integers(n_users, size=n_users), minlength=n_users) for _ in range(start, stop)]
        means[start:stop] = np.stack(counts).astype(np.float32) @ columns / n_users
    return means


def two_level_interval(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Interval:
    """The interval of the mean of ``b`` less that of ``a``, both (draws, seeds) of `resampled_means`.

    In each draw, the seeds of either are drawn with replacement, too: those of two models have nothing in common. With
    one seed, the interval is over users alone.
    """
    random = np.random.default_rng(seed)
    of_a, of_b = (_over_seeds(x, random) for x in (a, b))
    difference = of_b - of_a
    low, high = np.quantile(difference, (0.025, 0.975))
    mean, deviation = float(b.mean() - a.mean()), float(difference.std(ddof=1))
    p = 2 * float(scipy.stats.norm.sf(abs(mean) / deviation)) if deviation > 1e-9 * abs(mean) else math.nan
    return Interval(float(low), float(high), p)


def interval_of_mean(drawn: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds and users, from (draws, seeds) of `resampled_means`."""
    means = _over_seeds(drawn, np.random.default_rng(seed))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _over_seeds(drawn: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(draws,): of each draw, the mean over seeds that are drawn with replacement."""
    chosen = random.integers(drawn.shape[1], size=drawn.shape)
    return np.asarray(np.take_along_axis(drawn, chosen, axis=1).mean(axis=1))


def welch(a: np.ndarray, b: np.ndarray) -> float:
    """Welch's two-sided p-value of the difference of two means, over seeds; NaN with fewer than two of either, or where
    nothing varies.
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    of_a, of_b = (float(x.var(ddof=1)) / len(x) for x in (a, b))  # variances of the means
    difference = float(b.mean() - a.mean())
    if not math.sqrt(of_a + of_b) > 1e-9 * abs(difference):
        return math.nan
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    return float(2 * scipy.stats.t.sf(abs(difference) / math.sqrt(of_a + of_b), freedom))


def holm(values: Sequence[float]) -> list[float]:
    """Corrects p-values for multiple comparisons by Holm's method (1979); NaN stays NaN and is not counted."""
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected = [math.nan] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[i] = highest
    return corrected

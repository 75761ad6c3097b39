"""Summaries of repeated measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 2000


@dataclass(frozen=True)
class Summary:
    """Median and range, rounded to microseconds where the samples are seconds."""

    p50: float
    min: float
    max: float


def summary(samples: Sequence[float]) -> Summary:
    """Raises ``statistics.StatisticsError`` on an empty sequence."""
    return Summary(round(statistics.median(samples), 6), round(min(samples), 6), round(max(samples), 6))


@dataclass(frozen=True)
class Interval:
    """Median, and the two samples between which the true median lies (see :func:`interval`); or another figure and
    its bounds."""

    p50: float
    low: float
    high: float


def interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """The median with the distribution-free interval of order statistics: the k-th smallest and k-th largest sample
    enclose the true median with probability 1 - 2 P(Binomial(n, 1/2) < k). Under six samples no such interval has 95%:
    then it is the whole range. Raises ``statistics.StatisticsError`` on an empty sequence."""
    ordered = sorted(samples)
    n, k, below = len(ordered), 0, 0.0
    while k < n // 2:
        below += math.comb(n, k) / 2**n  # P(Binomial(n, 1/2) <= k)
        if 2 * below > 1.0 - confidence:
            break
        k += 1
    at = max(0, k - 1)
    return Interval(round(statistics.median(ordered), 6), round(ordered[at], 6), round(ordered[n - 1 - at], 6))


def quantile_ratio(ours: Sequence[float], theirs: Sequence[float], q: float, confidence: float = 0.95) -> Interval:
    """Our ``q``-th quantile (0 to 1) by theirs, where the n-th samples of both belong together, with the percentile
    interval of a paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13), seeded. Raises
    ``ValueError`` unless there are as many of both."""
    pairs = np.array([ours, theirs])
    rng = np.random.default_rng(0)
    drawn = pairs[:, rng.integers(0, pairs.shape[1], (_DRAWS, pairs.shape[1]))]
    top, bottom = np.quantile(drawn, q, axis=2)
    low, high = np.quantile(top / bottom, [(1 - confidence) / 2, (1 + confidence) / 2])
    ratio = np.quantile(pairs[0], q) / np.quantile(pairs[1], q)
    return Interval(round(float(ratio), 4), round(float(low), 4), round(float(high), 4))

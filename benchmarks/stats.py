"""Summaries of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Median and range, rounded to microseconds where the samples are seconds."""

    p50: float
    min: float
    max: float


def summary(samples: Sequence[float]) -> Summary:
    """Raises ``statistics.StatisticsError`` on an empty sequence."""
    return Summary(round(statistics.median(samples), 6), round(min(samples), 6), round(max(samples), 6))

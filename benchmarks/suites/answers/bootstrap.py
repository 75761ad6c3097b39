"""Intervals of means and ratios over questions that belong to conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DRAWS = 10_000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """A figure and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


class ClusterBootstrap:
    """The paired percentile bootstrap in two stages: clusters are drawn, then samples of each (Davison and Hinkley,
    Bootstrap Methods and their Application, section 3.8). Every figure is taken over the same draws, seeded.

    The second stage makes intervals wider than drawing clusters alone, which says too little of five of them.
    """

    def __init__(self, clusters: Sequence[int], seed: int = 0, draws: int = _DRAWS) -> None:
        """Draw for samples that belong to these clusters, in the order of the samples."""
        of = np.asarray(clusters)
        names = np.unique(of)
        rng = np.random.default_rng(seed)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
        self._weights = np.zeros((draws, len(of)))
        for at, name in enumerate(names):
            members = np.flatnonzero(of == name)
            shares = np.full(len(members), 1 / len(members))
            self._weights[:, members] = rng.multinomial(times[:, at] * len(members), shares)

    def mean(self, values: ArrayLike) -> Figure | None:
        """Give the mean of the samples that have a value (others are NaN); None where none has."""
        samples = np.asarray(values, float)
        return self.ratio(samples, np.where(np.isnan(samples), np.nan, 1.0))

    def ratio(self, over: ArrayLike, under: ArrayLike) -> Figure | None:
        """Give the sum of ``over`` by that of ``under``, over the samples that have both; None where none has."""
        top, bottom = np.asarray(over, float), np.asarray(under, float)
        there = ~(np.isnan(top) | np.isnan(bottom))
        if not there.any():
            return None
        weights = self._weights[:, there]
        drawn = _divided(weights @ top[there], weights @ bottom[there])
        if np.isnan(drawn).all():
            return None
        low, high = np.nanquantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
        value = float(_divided(top[there].sum(), bottom[there].sum()))
        return Figure(round(value, 4), round(float(low), 4), round(float(high), 4))


def _divided(over: ArrayLike, under: ArrayLike) -> NDArray[np.float64]:
    """Divide, with NaN where a draw holds none of the samples."""
    quotients = np.full(np.shape(under), np.nan)
    np.divide(over, under, out=quotients, where=np.asarray(under) != 0)
    return quotients

"""The expected use of a segment that is kept, by which eviction chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.prediction.learning import Matrix


def density(probabilities: Matrix, horizons: Sequence[float]) -> Matrix:
    """Return the uses per second of residency until the use or a horizon, at the horizon that is best; float32
    [segments].

    ``probabilities`` float32 [segments, horizons], of a use within each of ``horizons`` (seconds, ascending). With T
    the time to the next use this is max over H of P(T <= H) / E[min(T, H)]: the Gittins index (Gittins 1979), close
    to the hit density by which LHD evicts (Beckmann, Chen and Cidon, NSDI 2018). E is the integral of P(T > t), by
    trapezoids.
    """
    rising = np.maximum.accumulate(probabilities, axis=1)
    before = np.concatenate([np.zeros((len(rising), 1), np.float32), rising[:, :-1]], axis=1)
    steps = np.diff(np.asarray(horizons, np.float32), prepend=np.float32(0))
    kept = np.cumsum(steps * (1.0 - (rising + before) / 2), axis=1)
    return np.asarray((rising / kept).max(axis=1), np.float32)

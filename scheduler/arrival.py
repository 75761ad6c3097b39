"""When a conversation goes on: from the gaps between the turns of all cubes, and from each cube's hours of the day."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from scheduler.reuse import density

_BINS = 24  # of gaps, each twice as long as the one before: from a second to half a year
_FADE = 0.999
_DAY_FADE = 0.95
_HOURS = 24


def _bin(gap_s: float) -> int:
    return min(_BINS - 1, max(0, int(math.log2(max(gap_s, 1.0)))))


class Gaps:
    """How long conversations pause. Gaps that have not ended count as longer than they are, so that conversations
    that are over are not waited for."""

    def __init__(self) -> None:
        self._ended = np.full(_BINS, 0.05)
        self._sums = self._summed()

    def _summed(self) -> list[float]:
        """How many gaps are shorter than each bin: asked for at every eviction."""
        self._rates: dict[int, float] = {}
        return [0.0, *np.cumsum(self._ended).tolist()]

    def observe(self, gap_s: float) -> None:
        """A conversation went on after so many seconds."""
        self._ended *= _FADE
        self._ended[_bin(gap_s)] += 1.0
        self._sums = self._summed()

    def returns_within(self, horizon_s: float, idle_s: float, also_idle: int = 1) -> float:
        """Probability that a conversation which has paused for ``idle_s`` goes on in the next ``horizon_s``.
        ``also_idle``: how many have paused for at least as long, and may never go on."""
        first, last = _bin(idle_s), _bin(idle_s + horizon_s)
        sums = self._sums
        return (sums[last + 1] - sums[first]) / (sums[_BINS] - sums[first] + also_idle)

    def rate(self, idle_s: float) -> float:
        """Turns a second of a conversation that has paused for ``idle_s`` (see ``scheduler.reuse.density``)."""
        first = _bin(idle_s)
        if first not in self._rates:
            self._rates[first] = self._rate(first)
        return self._rates[first]

    def _rate(self, first: int) -> float:
        sums = self._sums
        begin = 2.0**first if first else 0.0
        came = (np.array(sums[first + 1 :]) - sums[first]) / (sums[_BINS] - sums[first] + 1)
        ends = [2.0 ** (bin + 1) - begin for bin in range(first, _BINS)]
        return float(density(came[None].astype(np.float32), ends)[0])

    def state(self) -> list[float]:
        return [round(float(count), 4) for count in self._ended]

    def restore(self, state: list[float]) -> None:
        if len(state) == _BINS:
            self._ended = np.asarray(state)
            self._sums = self._summed()


class Rhythm:
    """At which hours of the day (UTC) a cube is used: the share of days on which it was, the recent ones foremost."""

    def __init__(self) -> None:
        self._on = np.zeros(_HOURS)
        self._days = 0.0
        self._today = -1
        self._seen: set[int] = set()

    def observe(self, at: float) -> None:
        """A turn at ``at`` (Unix seconds)."""
        day, hour = int(at // 86_400), datetime.fromtimestamp(at, UTC).hour
        if day != self._today:
            passed = 1 if self._today < 0 else max(1, day - self._today)
            fade = _DAY_FADE ** min(passed, 365)
            self._on *= fade
            self._days = self._days * fade + min(passed, 14)
            self._today = day
            self._seen = set()
        if hour not in self._seen:
            self._seen.add(hour)
            self._on[hour] += 1.0

    def likely(self, at: float) -> float:
        """Probability that it is used in the hour of ``at``; four days without are taken for granted."""
        day, hour = int(at // 86_400), datetime.fromtimestamp(at, UTC).hour
        if day == self._today and hour in self._seen:
            return 0.0  # it was: what comes now, the gaps say
        missed = max(0, day - self._today - 1)
        return float(self._on[hour] / (self._days + missed + 4.0))

    def state(self) -> dict[str, Any]:
        return {"on": [round(float(n), 3) for n in self._on], "days": round(self._days, 3), "today": self._today}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Rhythm:
        rhythm = cls()
        rhythm._on, rhythm._days = np.asarray(state["on"], float), float(state["days"])
        rhythm._today = int(state["today"])
        return rhythm

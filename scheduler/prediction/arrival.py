"""Predicts when a conversation goes on: by the gaps between all cubes' turns, and each cube's hours of the day."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.prediction.density import density

_BINS = 24  # of gaps, each twice as long as the one before: from a second to half a year
_FADE = 0.999
_DAY_FADE = 0.95
_HOURS = 24


def _bin(gap_s: float) -> int:
    return min(_BINS - 1, max(0, int(math.log2(max(gap_s, 1.0)))))


class GapTable:
    """Counts of the gaps that are shorter than each bin, and what follows from them. Nothing that is told ever changes:
    any thread may read it. Rates are worked out when they are first asked for, by whoever asks."""

    def __init__(self, ended: NDArray[np.float64]) -> None:
        self._sums: tuple[float, ...] = (0.0, *np.cumsum(ended).tolist())
        self._rates: list[float | None] = [None] * _BINS

    def returns_within(self, horizon_s: float, idle_s: float, also_idle: int = 1) -> float:
        """Return the probability that a conversation which has paused for ``idle_s`` goes on in the next ``horizon_s``.
        ``also_idle``: how many have paused for at least as long, and may never go on."""
        first, last = _bin(idle_s), _bin(idle_s + horizon_s)
        sums = self._sums
        return (sums[last + 1] - sums[first]) / (sums[_BINS] - sums[first] + also_idle)

    def rate(self, idle_s: float) -> float:
        """Return the turns per second of a conversation that has paused for ``idle_s`` (see ``density``). Asked for at
        every eviction."""
        first = _bin(idle_s)
        found = self._rates[first]
        if found is None:
            found = self._rates[first] = self._rate(first)
        return found

    def _rate(self, first: int) -> float:
        sums = self._sums
        begin = 2.0**first if first else 0.0
        came = (np.array(sums[first + 1 :]) - sums[first]) / (sums[_BINS] - sums[first] + 1)
        ends = [2.0 ** (bin + 1) - begin for bin in range(first, _BINS)]
        return float(density(came[None].astype(np.float32), ends)[0])


class Gaps:
    """The lengths of pauses in conversations. An open gap counts as longer than observed so far, so that finished
    conversations are not waited for. ``table`` is replaced, never changed: any thread may keep it."""

    def __init__(self) -> None:
        self._ended = np.full(_BINS, 0.05)
        self.table = GapTable(self._ended)

    def observe(self, gap_s: float) -> None:
        """Take in that a conversation went on after ``gap_s``."""
        self._ended *= _FADE
        self._ended[_bin(gap_s)] += 1.0
        self.table = GapTable(self._ended)

    def state(self) -> list[float]:
        return [round(float(count), 4) for count in self._ended]

    def restore(self, state: list[float]) -> None:
        if len(state) == _BINS:
            self._ended = np.asarray(state)
            self.table = GapTable(self._ended)


@dataclass(frozen=True)
class Days:
    """Decayed counts of days on which each hour was one of use, and of all days; the last day (since 1970) and its
    hours so far."""

    on: tuple[float, ...] = (0.0,) * _HOURS
    days: float = 0.0
    today: int = -1
    seen: frozenset[int] = frozenset()

    def likely(self, at: float) -> float:
        """Return the probability of a use in the hour of ``at``; four days without are taken for granted."""
        day, hour = int(at // 86_400), datetime.fromtimestamp(at, UTC).hour
        if day == self.today and hour in self.seen:
            return 0.0  # it was: what comes now, the gaps say
        missed = max(0, day - self.today - 1)
        return self.on[hour] / (self.days + missed + 4.0)


class Rhythm:
    """At which hours of the day (UTC) a cube is used: the share of days on which it was, the recent ones foremost.
    ``days`` is replaced, never changed: any thread may keep it."""

    def __init__(self, days: Days | None = None) -> None:
        self.days = days or Days()

    def observe(self, at: float) -> None:
        """Take in a turn at ``at`` (Unix seconds)."""
        known = self.days
        day, hour = int(at // 86_400), datetime.fromtimestamp(at, UTC).hour
        if day != known.today:
            passed = 1 if known.today < 0 else max(1, day - known.today)
            fade = _DAY_FADE ** min(passed, 365)
            on = tuple(n * fade for n in known.on)
            known = Days(on, known.days * fade + min(passed, 14), day)
        if hour not in known.seen:
            on = (*known.on[:hour], known.on[hour] + 1.0, *known.on[hour + 1 :])
            known = replace(known, on=on, seen=known.seen | {hour})
        self.days = known

    def state(self) -> dict[str, Any]:
        known = self.days
        return {"on": [round(n, 3) for n in known.on], "days": round(known.days, 3), "today": known.today}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Rhythm:
        on = tuple(float(n) for n in state["on"])
        if len(on) != _HOURS:
            raise ValueError(f"{len(on)} hours")
        return cls(Days(on, float(state["days"]), int(state["today"])))

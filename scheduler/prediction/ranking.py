"""The worth of segments to the memory tiers, as a value that is handed down after each prediction.

Uses per second of residency are uses per turn (``density``) x turns per second of the cube. A use that comes soon is
worth more than one that comes late. (Bringing a segment back costs as many seconds per byte as the next, so that bytes
and seconds cancel out.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kvcache import Entry
from scheduler.prediction.arrival import Days, GapTable

_MAX_SEGMENTS = 65_536

CubeKey = tuple[str, str]
"""Tenant and cube."""


@dataclass(frozen=True)
class CubeRank:
    """Expectations of one cube: uses per turn by segment; when it was last used (Unix seconds), and at which hours
    it is. Nothing of it is ever changed."""

    density: Mapping[str, float]
    last_at: float
    days: Days

    def turns_per_s(self, gaps: GapTable, now: float) -> float:
        """Return how many turns per second are expected at ``now``."""
        return max(gaps.rate(max(0.0, now - self.last_at)), self.days.likely(now) / 3600)


@dataclass(frozen=True)
class Ranking:
    """Ranks segments by what was known when it was made; nothing of it is ever changed, so any thread may ask it.

    ``owners``: the cube that a segment is of. ``trusted``: whether predictions were right lately; else what was used
    last is worth most.
    """

    trusted: bool
    owners: Mapping[str, CubeKey]
    cubes: Mapping[CubeKey, CubeRank]
    gaps: GapTable
    clock: Callable[[], float]

    def worth(self, entries: Sequence[Entry]) -> list[float]:
        """Return what segments are worth to a memory tier: the least leave first."""
        if not self.trusted:
            return [entry.last_used_at for entry in entries]
        now = self.clock()
        return [self._worth(entry, now) for entry in entries]

    def _worth(self, entry: Entry, now: float) -> float:
        owner = self.owners.get(entry.key)
        cube = None if owner is None else self.cubes.get(owner)
        if cube is None:
            # A conversation's turns, above all: they are used again if it goes on.
            return self.gaps.rate(max(0.0, now - entry.last_used_at))
        return cube.density.get(entry.key, 0.0) * cube.turns_per_s(self.gaps, now)


class Ranks:
    """The material that rankings are made from. Not thread-safe: lives in the event loop."""

    def __init__(self) -> None:
        self._cubes: dict[CubeKey, CubeRank] = {}
        self._owners: OrderedDict[str, CubeKey] = OrderedDict()
        self._given: dict[str, CubeKey] | None = None

    def update(self, key: CubeKey, rank: CubeRank) -> None:
        """Take in what is expected of a cube now."""
        self._cubes[key] = rank

    def own(self, key: CubeKey, segments: Iterable[str]) -> None:
        """Note that these segments are of this cube; those that nothing was heard of for longest are forgotten."""
        for segment in segments:
            if self._owners.get(segment) != key:
                self._given = None
            self._owners[segment] = key
            self._owners.move_to_end(segment)
        while len(self._owners) > _MAX_SEGMENTS:
            self._owners.popitem(last=False)
            self._given = None

    def forget(self, key: CubeKey) -> None:
        """Expect nothing of a cube any more."""
        self._cubes.pop(key, None)

    def ranking(self, *, trusted: bool, gaps: GapTable, clock: Callable[[], float]) -> Ranking:
        """Make the ranking that follows from what is known now."""
        if self._given is None:  # large, and seldom another than before
            self._given = dict(self._owners)
        return Ranking(trusted, self._given, dict(self._cubes), gaps, clock)

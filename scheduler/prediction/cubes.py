"""Everything that is known of each cube between its turns, and how that survives a restart."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.prediction.arrival import GapTable, Rhythm
from scheduler.prediction.outcomes import Expected
from scheduler.prediction.ranking import CubeKey, CubeRank
from scheduler.prediction.signals import CubeHistory

_MAX_CUBES = 4096


@dataclass(eq=False)
class Cube:
    """``header``: header tokens of the cube's latest prompt; its pages are built behind them. ``likely``, ``density``
    and ``sizes`` (by segment) are never changed, only replaced: rankings keep them."""

    history: CubeHistory = field(default_factory=CubeHistory)
    rhythm: Rhythm = field(default_factory=Rhythm)
    waiting: deque[Expected] = field(default_factory=deque)
    header: tuple[int, ...] | None = None
    likely: dict[str, float] = field(default_factory=dict)
    density: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    offered: bool = False

    def rank(self) -> CubeRank:
        """Return what is expected of the cube, for the memory tiers."""
        return CubeRank(self.density, self.history.last_at, self.rhythm.days)

    def still_coming(self, gaps: GapTable, horizon_s: float, now: float) -> float:
        """Return the share of a prediction that is left after the conversation has paused: predictions are made right
        after a turn."""
        idle_s = max(0.0, now - self.history.last_at)
        if self.history.turn == 0 or idle_s < 1.0:
            return 1.0
        at_once = gaps.returns_within(horizon_s, 0.0)
        now_p = max(gaps.returns_within(horizon_s, idle_s), self.rhythm.days.likely(now))
        return min(1.0, now_p / max(at_once, 1e-9))

    def state(self, key: CubeKey) -> dict[str, Any]:
        """Return what a restart needs, as JSON: ids and numbers, no texts."""
        return {
            "tenant": key[0],
            "cube": key[1],
            "header": None if self.header is None else list(self.header),
            "history": self.history.state(),
            "rhythm": self.rhythm.state(),
            "likely": {segment: round(p, 4) for segment, p in self.likely.items()},
            "density": {segment: round(value, 4) for segment, value in self.density.items()},
            "sizes": self.sizes,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Cube:
        """Make the cube that :meth:`state` was asked of."""
        header = None if state["header"] is None else tuple(state["header"])
        cube = cls(CubeHistory.restored(state["history"]), Rhythm.restored(state["rhythm"]), header=header)
        cube.likely, cube.density = dict(state["likely"]), dict(state["density"])
        cube.sizes = dict(state["sizes"])
        return cube


class Cubes:
    """The cubes that were used last. Not thread-safe: lives in the event loop."""

    def __init__(self) -> None:
        self._cubes: OrderedDict[CubeKey, Cube] = OrderedDict()
        self._states: dict[CubeKey, dict[str, Any]] = {}
        self._changed: set[CubeKey] = set()

    def __iter__(self) -> Iterator[tuple[CubeKey, Cube]]:
        return iter(list(self._cubes.items()))

    def get(self, key: CubeKey) -> Cube | None:
        """Return what is known of a cube; None where nothing is."""
        return self._cubes.get(key)

    def use(self, key: CubeKey) -> tuple[Cube, CubeKey | None]:
        """Return what is known of a cube, from now on the last used one, and the cube that had to be forgotten for it,
        where one had to."""
        cube = self._cubes.setdefault(key, Cube())
        self._cubes.move_to_end(key)
        gone = self._cubes.popitem(last=False)[0] if len(self._cubes) > _MAX_CUBES else None
        return cube, gone

    def changed(self, key: CubeKey) -> None:
        """Note that the cube's state is another one than before."""
        self._changed.add(key)

    def forget(self, key: CubeKey) -> bool:
        """Forget a cube. False when nothing was known of it."""
        return self._cubes.pop(key, None) is not None

    def state(self) -> list[dict[str, Any]]:
        """Return all cubes as JSON. Only those that have changed are written out anew."""
        self._states = {key: state for key, state in self._states.items() if key in self._cubes}
        self._states |= {key: self._cubes[key].state(key) for key in self._changed if key in self._cubes}
        self._changed.clear()
        return [self._states[key] for key in self._cubes if key in self._states]

    def restore(self, state: Mapping[str, Any]) -> tuple[CubeKey, Cube]:
        """Take in one cube of :meth:`state`."""
        cube, key = Cube.restored(state), (str(state["tenant"]), str(state["cube"]))
        self._cubes[key] = cube
        self._changed.add(key)
        return key, cube

"""Brings segments up before they are asked for.

A queue by what a byte moved is expected to save: probability x saved seconds / bytes. Nothing is moved while a request
is in the engine, one segment at a time otherwise; an engine may give one up when a request arrives meanwhile, and it is
tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from engine.base import Capacity
from engine.errors import EngineClosed
from kvcache import PreloadStats, ReadInterrupted, TierName
from scheduler.background import Worker
from scheduler.events import EventLog

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.01
# How much a new move changes the estimate of the drive's speed.
_WEIGHT = 0.3
_ASSUMED_BYTES_S = 1e9


class Mover(Protocol):
    """Moves segments, and does other things first: the engine."""

    def capacity(self) -> Capacity: ...

    async def preload(self, key: str) -> int: ...


class Stored(Protocol):
    """Knows where segments are, and what became of those that were moved: the catalogue."""

    def tier_of(self, key: str) -> TierName | None: ...

    def preloads(self) -> PreloadStats: ...


@dataclass(frozen=True)
class PreloadConfig:
    """Limits. ``bytes_s``: bytes per second at most (0: no limit); ``unused_bytes``: bytes at most that
    nobody has used yet; ``max_queued``: entries of the queue, the least worth leave."""

    min_probability: float = field(default=0.5, metadata={"range": (0, 1)})
    bytes_s: float = field(default=0.0, metadata={"range": (0, 1e12)})
    unused_bytes: int = 2 << 30
    max_queued: int = 1024


@dataclass(frozen=True)
class Wanted:
    """A segment that is expected to be used, with what probability, and its size in bytes. ``deadline``: not worth
    moving after that (monotonic seconds)."""

    key: str
    probability: float
    nbytes: int
    deadline: float


@dataclass
class PreloaderStats:
    """Counters since the start; ``waiting`` is what is queued now. Whatever was ``offered`` is one of the others."""

    waiting: int = 0
    offered: int = 0
    moved: int = 0
    moved_bytes: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    failures: int = 0


class Preloader:
    """One task that works off the queue. Not thread-safe: lives in the event loop."""

    def __init__(
        self,
        mover: Mover,
        stored: Stored,
        config: PreloadConfig,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mover = mover
        self._stored = stored
        self._config = config
        self._events = events
        self._clock = clock
        self._queue: dict[str, tuple[Hashable, Wanted]] = {}
        self._bytes_s = _ASSUMED_BYTES_S
        self._free_at = 0.0
        self._moving: tuple[Hashable, str] | None = None  # None also: it is expected no longer
        self._taken: str = ""
        self._worker = Worker("preloader", self._step, self._failed)
        self._stats = PreloaderStats()
        self.most_queued = 0
        """The most that ever waited."""

    @property
    def bytes_s(self) -> float:
        """The speed at which segments came up so far, in bytes per second."""
        return self._bytes_s

    def stats(self) -> PreloaderStats:
        self._stats.waiting = len(self._queue)
        return self._stats

    def offer(self, owner: Hashable, wanted: Iterable[Wanted]) -> None:
        """Queue what ``owner`` (a cube) is expected to need now, in place of what was expected before."""
        fresh = {item.key: item for item in wanted if self._worth_moving(item)}
        for key in [key for key, (other, _) in self._queue.items() if other == owner and key not in fresh]:
            del self._queue[key]
            self._stats.cancelled += 1
        if self._moving is not None and self._moving[0] == owner and self._moving[1] not in fresh:
            self._moving = None
        for key, item in fresh.items():
            self._stats.offered += key not in self._queue
            self._queue[key] = (owner, item)
        self._drop_excess()
        self.most_queued = max(self.most_queued, len(self._queue))
        if self._queue:
            self._worker.wake()

    def _worth_moving(self, item: Wanted) -> bool:
        if item.probability < self._config.min_probability:
            return False
        return self._stored.tier_of(item.key) not in (None, "device", "host")

    def _drop_excess(self) -> None:
        excess = len(self._queue) - self._config.max_queued
        if excess > 0:
            for key in sorted(self._queue, key=self._priority)[:excess]:
                del self._queue[key]
                self._stats.cancelled += 1

    def _priority(self, key: str) -> float:
        """Return probability x saved seconds / bytes, up to a factor: each byte saves as many seconds as the next."""
        return self._queue[key][1].probability

    async def _step(self) -> bool:
        if not self._queue:
            return False
        await self._wait_for_room()
        self._drop_late()
        if self._queue:
            self._taken = max(self._queue, key=self._priority)
            await self._move(*self._queue.pop(self._taken))
        return True

    def _failed(self) -> str:
        self._stats.failures += 1
        return f"segment {self._taken[:12]} could not be preloaded"

    async def _wait_for_room(self) -> None:
        """Wait until no request is in the engine, and the bandwidth that is ours is free."""
        while self._queue:
            capacity = self._mover.capacity()
            late = self._free_at - self._clock()
            if capacity.running + capacity.waiting == 0 and late <= 0:
                return
            await asyncio.sleep(_LOOK_EVERY_S if late <= 0 else min(late, 0.25))

    def _drop_late(self) -> None:
        now = self._clock()
        for key in [key for key, (_, item) in self._queue.items() if item.deadline < now]:
            del self._queue[key]
            self._stats.expired += 1

    async def _move(self, owner: Hashable, item: Wanted) -> None:
        ledger = self._stored.preloads()
        unused = ledger.bytes - ledger.used_bytes - ledger.wasted_bytes
        if unused + item.nbytes > self._config.unused_bytes:
            self._stats.refused += 1
            return
        begin = self._clock()
        self._moving = (owner, item.key)
        try:
            moved = await self._mover.preload(item.key)
        except ReadInterrupted:
            if self._moving is None or item.key in self._queue:  # no longer expected, or offered anew
                self._stats.cancelled += 1
            else:
                self._queue[item.key] = (owner, item)
            await asyncio.sleep(_LOOK_EVERY_S)  # a request that has just come is not in the engine's counts yet
            return
        except EngineClosed:
            self._stats.cancelled += 1
            self._cancel_all()
            return
        seconds = self._clock() - begin
        if not moved:
            self._stats.refused += 1
            return
        self._stats.moved += 1
        self._stats.moved_bytes += moved
        self._bytes_s = 1.0 / ((1 - _WEIGHT) / self._bytes_s + _WEIGHT * max(seconds, 1e-9) / moved)
        if self._config.bytes_s:
            self._free_at = begin + moved / self._config.bytes_s
        tenant = owner[0] if isinstance(owner, tuple) else None
        self._events.publish(
            "preloaded",
            tenant=tenant,
            segment=item.key[:12],
            bytes=moved,
            probability=round(item.probability, 3),
            ms=round(seconds * 1e3, 2),
        )

    async def settled(self) -> None:
        """Wait until nothing is queued."""
        await self._worker.settled()

    def _cancel_all(self) -> None:
        self._stats.cancelled += len(self._queue)
        self._queue.clear()

    async def close(self) -> None:
        """Leave what is queued."""
        self._cancel_all()
        await self._worker.close()

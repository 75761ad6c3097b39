"""Tiers: the places where segments are, from the fastest to the slowest, and those of them that are memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kvcache.copies import Allocate, fresh_memory
from kvcache.fingerprint import Fingerprint
from kvcache.segment import Segment

MemoryTierName = Literal["device", "host"]
TierName = Literal["device", "host", "disk", "remote"]
# Those that every store has.
TIERS: tuple[TierName, ...] = ("device", "host", "disk")

# A preload may evict a segment only if that is worth at most this fraction of it.
CLEARLY_LESS = 0.75

Rank = Callable[[Sequence[str]], Sequence[float]]
"""Gives what segments (by key) are worth to a memory tier, 0 or more: the least leave first. Called with the
catalogue's lock held."""


@dataclass(frozen=True)
class Usage:
    """A tier's size now, in bytes and segments, its budget in bytes, and its evictions since it was opened."""

    nbytes: int = 0
    budget: int = 0
    segments: int = 0
    evictions: int = 0


class Holder(Protocol):
    """A place where segments are. Both methods are called with the catalogue's lock held, and must not wait."""

    @property
    def name(self) -> TierName: ...

    def has(self, key: str) -> bool:
        """Say whether the segment is here."""
        ...

    def remove(self, key: str) -> None:
        """Let go of the segment, where it is here."""
        ...


class Tier(Holder, Protocol):
    """A place outside of memory: the disk, or one further away. Reading and writing take their time: they are called
    without any lock, in any thread."""

    def read(
        self,
        key: str,
        fingerprint: Fingerprint,
        *,
        allocate: Allocate = fresh_memory,
        stop: Callable[[], bool] | None = None,
    ) -> Segment:
        """Read a segment into host memory from ``allocate``. Raises ``SegmentMissing`` when it cannot be had (any
        more), :meth:`has` says no from then on; ``ReadInterrupted`` once ``stop`` says so, where that is asked."""
        ...

    def write(self, segment: Segment) -> None:
        """Keep a segment, whose tensors are in host memory. Raises ``NoRoom``, ``OSError``."""
        ...


class MemoryTier:
    """Segments in memory, within a byte budget. The least recently used leave first, or those that ``rank`` says are
    worth the least. Not thread-safe: the catalogue's lock is held around it."""

    def __init__(self, name: MemoryTierName, budget: int) -> None:
        self.name: TierName = name
        self.budget = budget
        self.nbytes = 0
        self.evictions = 0
        self._segments: OrderedDict[str, Segment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._segments)

    def __contains__(self, key: str) -> bool:
        return key in self._segments

    def has(self, key: str) -> bool:
        """Say whether the segment is in this memory."""
        return key in self._segments

    def remove(self, key: str) -> None:
        """Let go of the segment, where it is here."""
        self.pop(key)

    def usage(self) -> Usage:
        """Return what is held, and the budget."""
        return Usage(self.nbytes, self.budget, len(self._segments), self.evictions)

    def get(self, key: str) -> Segment | None:
        """Return the segment, and count that as a use."""
        segment = self._segments.get(key)
        if segment is not None:
            self._segments.move_to_end(key)
        return segment

    def peek(self, key: str) -> Segment | None:
        """Return the segment, without counting that as a use."""
        return self._segments.get(key)

    def put(self, segment: Segment, is_held: Callable[[str], bool], rank: Rank | None = None) -> list[Segment]:
        """Take ``segment`` in and return what had to leave: others that are not held, or itself when it does not fit
        or is worth less than they are."""
        self.pop(segment.key)
        if segment.nbytes > self.budget:
            return [segment]
        self._segments[segment.key] = segment
        self.nbytes += segment.nbytes
        evicted = self._evicted(segment.key, is_held, rank)
        if self.nbytes > self.budget:
            evicted.append(self._pop_existing(segment.key))
        return evicted

    def replace(self, segment: Segment, by: Segment) -> bool:
        """Hold ``by``, the same segment in other memory, in the place of ``segment``; that counts as no use. False
        where that very object is not here (any more)."""
        if self._segments.get(segment.key) is not segment:
            return False
        self._segments[segment.key] = by
        return True

    def shrink(self, budget: int, is_held: Callable[[str], bool], rank: Rank | None = None) -> list[Segment]:
        """Keep to another budget from now on; return what had to leave for it, none that is held."""
        self.budget = budget
        return self._evicted(None, is_held, rank)

    def _evicted(self, newest: str | None, is_held: Callable[[str], bool], rank: Rank | None) -> list[Segment]:
        """Let go what is not held until the rest fits the budget."""
        evicted: list[Segment] = []
        for key in self._leaving(newest, rank) if self.nbytes > self.budget else ():
            if self.nbytes <= self.budget:
                break
            if not is_held(key):
                evicted.append(self._pop_existing(key))
        return evicted

    def has_room(self, key: str, nbytes: int, is_held: Callable[[str], bool], rank: Rank | None = None) -> bool:
        """Say whether a segment that is not here could come without anything leaving that is worth about as much: two
        that are alike must not displace each other in turn."""
        free = self.budget - self.nbytes
        if free >= nbytes or rank is None:
            return nbytes <= self.budget
        keys = list(self._segments)
        (own, *worth) = rank([key, *keys])
        for other, value in zip(keys, worth, strict=True):
            if value < own * CLEARLY_LESS and not is_held(other):
                free += self._segments[other].nbytes
        return free >= nbytes

    def _leaving(self, newest: str | None, rank: Rank | None) -> list[str]:
        """List keys in the order in which they leave. Without a rank the newest stays as long as it can."""
        if rank is None:
            return [key for key in self._segments if key != newest]
        keys = list(self._segments)
        worth = dict(zip(keys, rank(keys), strict=True))
        return sorted(keys, key=worth.__getitem__)  # stable: of equals, the least recently used first

    def pop(self, key: str) -> Segment | None:
        """Take the segment out and return it; None where it is not here."""
        return self._pop_existing(key) if key in self._segments else None

    def _pop_existing(self, key: str) -> Segment:
        segment = self._segments.pop(key)
        self.nbytes -= segment.nbytes
        return segment

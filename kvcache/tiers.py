"""Segments held in memory, within a byte budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

from kvcache.segment import Segment

TierName = Literal["device", "host", "disk"]
TIERS: tuple[TierName, ...] = ("device", "host", "disk")

# To be displaced by what nobody has asked for yet, a segment must be worth at most so much of it.
CLEARLY_LESS = 0.75

Rank = Callable[[Sequence[str]], Sequence[float]]
"""What segments (by key) are worth to a memory tier, 0 or more: the least leave first. Called with the store's lock
held."""


class MemoryTier:
    """Least-recently-used segments leave first, or those that ``rank`` says are worth the least. Not thread-safe: the
    store holds a lock around it."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.nbytes = 0
        self._segments: OrderedDict[str, Segment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._segments)

    def __contains__(self, key: str) -> bool:
        return key in self._segments

    def get(self, key: str) -> Segment | None:
        segment = self._segments.get(key)
        if segment is not None:
            self._segments.move_to_end(key)
        return segment

    def peek(self, key: str) -> Segment | None:
        """The segment, without counting that as a use."""
        return self._segments.get(key)

    def put(self, segment: Segment, pinned: Callable[[str], bool], rank: Rank | None = None) -> list[Segment]:
        """Take ``segment`` in and return what had to leave: others that are not pinned, or itself when it does not
        fit or is worth less than they are."""
        self.pop(segment.key)
        if segment.nbytes > self.budget:
            return [segment]
        self._segments[segment.key] = segment
        self.nbytes += segment.nbytes
        evicted = self._evicted(segment.key, pinned, rank)
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

    def shrink(self, budget: int, pinned: Callable[[str], bool], rank: Rank | None = None) -> list[Segment]:
        """Keep to another budget from now on; what had to leave for it, none that is pinned."""
        self.budget = budget
        return self._evicted(None, pinned, rank)

    def _evicted(self, newest: str | None, pinned: Callable[[str], bool], rank: Rank | None) -> list[Segment]:
        """Let go what is not pinned until the rest fits the budget."""
        evicted: list[Segment] = []
        for key in self._leaving(newest, rank) if self.nbytes > self.budget else ():
            if self.nbytes <= self.budget:
                break
            if not pinned(key):
                evicted.append(self._pop_existing(key))
        return evicted

    def has_room(self, key: str, nbytes: int, pinned: Callable[[str], bool], rank: Rank | None = None) -> bool:
        """Whether a segment that is not here could come without anything leaving that is worth about as much: two that
        are alike must not displace each other in turn."""
        free = self.budget - self.nbytes
        if free >= nbytes or rank is None:
            return nbytes <= self.budget
        keys = list(self._segments)
        (own, *worth) = rank([key, *keys])
        for other, value in zip(keys, worth, strict=True):
            if value < own * CLEARLY_LESS and not pinned(other):
                free += self._segments[other].nbytes
        return free >= nbytes

    def _leaving(self, newest: str | None, rank: Rank | None) -> list[str]:
        """Keys in the order in which they leave. Without a rank the newest stays as long as it can."""
        if rank is None:
            return [key for key in self._segments if key != newest]
        keys = list(self._segments)
        worth = dict(zip(keys, rank(keys), strict=True))
        return sorted(keys, key=worth.__getitem__)  # stable: of equals, the least recently used first

    def pop(self, key: str) -> Segment | None:
        return self._pop_existing(key) if key in self._segments else None

    def _pop_existing(self, key: str) -> Segment:
        segment = self._segments.pop(key)
        self.nbytes -= segment.nbytes
        return segment

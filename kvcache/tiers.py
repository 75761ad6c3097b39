"""Segments held in memory, within a byte budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from kvcache.segment import Segment

TierName = Literal["device", "host", "disk"]
TIERS: tuple[TierName, ...] = ("device", "host", "disk")


class MemoryTier:
    """Least-recently-used segments leave first. Not thread-safe: the store holds a lock around it."""

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

    def put(self, segment: Segment, pinned: Callable[[str], bool]) -> list[Segment]:
        """Take ``segment`` in and return what had to leave: others that are not pinned, or itself when it does
        not fit."""
        self.pop(segment.key)
        if segment.nbytes > self.budget:
            return [segment]
        self._segments[segment.key] = segment
        self.nbytes += segment.nbytes
        evicted = []
        for key in list(self._segments):
            if self.nbytes <= self.budget:
                break
            if key != segment.key and not pinned(key):
                evicted.append(self._pop_existing(key))
        if self.nbytes > self.budget:
            evicted.append(self._pop_existing(segment.key))
        return evicted

    def pop(self, key: str) -> Segment | None:
        return self._pop_existing(key) if key in self._segments else None

    def _pop_existing(self, key: str) -> Segment:
        segment = self._segments.pop(key)
        self.nbytes -= segment.nbytes
        return segment

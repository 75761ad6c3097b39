"""Counters and sizes of a segment store."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kvcache.entry import Entry
from kvcache.ledger import PreloadStats
from kvcache.tiers import TierName


@dataclass(frozen=True)
class ModelShare:
    """Segments of one model on disk (by the fingerprint's digest)."""

    fingerprint: str
    segments: int
    bytes: int
    last_used_at: float


def shares(entries: Iterable[Entry]) -> list[ModelShare]:
    """Sum up what each model has on disk, the last used model first."""
    found: dict[str, ModelShare] = {}
    for entry in entries:
        if entry.on_disk:
            old = found.get(entry.fingerprint, ModelShare(entry.fingerprint, 0, 0, 0.0))
            used_at = max(old.last_used_at, entry.last_used_at)
            found[entry.fingerprint] = ModelShare(
                entry.fingerprint, old.segments + 1, old.bytes + entry.disk_bytes, used_at
            )
    return sorted(found.values(), key=lambda share: -share.last_used_at)


class Counts:
    """Counters of what happens to segments, since the store was opened. Thread-safe."""

    def __init__(self) -> None:
        self.hits: Counter[TierName] = Counter()
        self.misses = self.write_errors = self.dropped_writes = 0
        self._lock = threading.Lock()

    def hit(self, tier: TierName) -> None:
        """Count a segment that was used from ``tier``."""
        with self._lock:
            self.hits[tier] += 1

    def miss(self, n: int = 1) -> None:
        """Count pieces that were looked for and had to be computed."""
        with self._lock:
            self.misses += n

    def failed_write(self) -> None:
        """Count a segment that could not be written."""
        with self._lock:
            self.write_errors += 1

    def dropped_write(self) -> None:
        """Count a segment that was not written for want of room."""
        with self._lock:
            self.dropped_writes += 1


@dataclass(frozen=True)
class StoreStats:
    """Counters since the store was opened, and what each tier holds now. ``failed_ranks``: times that segments were
    ranked by their use because what they are worth could not be told."""

    hits: dict[TierName, int]
    misses: int
    quarantined: int
    write_errors: int
    dropped_writes: int
    evictions: dict[TierName, int]
    bytes: dict[TierName, int]
    budgets: dict[TierName, int]
    segments: dict[TierName, int]
    preloads: PreloadStats = field(default_factory=PreloadStats)
    models: list[ModelShare] = field(default_factory=list)
    in_quarantine: int = 0
    quarantine_bytes: int = 0
    failed_ranks: int = 0


@dataclass(frozen=True)
class Garbage:
    """The number of segments removed: segments that nothing could reach, and segments whose files had been refused."""

    unreachable: int
    quarantined: int

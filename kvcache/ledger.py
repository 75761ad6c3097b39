"""An account of segments that are brought up before anybody asks for them."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PreloadStats:
    """Counters of preloaded segments: how many, their bytes, the bytes of those that were used afterwards, and of
    those that left memory unused; the rest is waiting. ``saved_s``: what loading the used ones on demand would have
    taken, in seconds."""

    segments: int = 0
    bytes: int = 0
    used_bytes: int = 0
    wasted_bytes: int = 0
    saved_s: float = 0.0


class PreloadLedger:
    """Not thread-safe: the store holds a lock around it."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, float]] = {}
        self.stats = PreloadStats()

    def moved(self, key: str, nbytes: int, seconds: float) -> None:
        """Count a segment that was brought up in ``seconds``."""
        known = self._waiting.get(key)
        if known is not None:  # moved on, from one memory tier to the next
            self._waiting[key] = (known[0], known[1] + seconds)
            return
        self._waiting[key] = (nbytes, seconds)
        done = self.stats
        self.stats = replace(done, segments=done.segments + 1, bytes=done.bytes + nbytes)

    def used(self, key: str) -> None:
        """Count a use of a segment; the first use of a preloaded one is what it was for."""
        nbytes, seconds = self._waiting.pop(key, (0, 0.0))
        if nbytes:
            done = self.stats
            self.stats = replace(done, used_bytes=done.used_bytes + nbytes, saved_s=done.saved_s + seconds)

    def left(self, key: str) -> None:
        """Note that a segment is in no memory tier any more."""
        nbytes, _ = self._waiting.pop(key, (0, 0.0))
        if nbytes:
            self.stats = replace(self.stats, wasted_bytes=self.stats.wasted_bytes + nbytes)

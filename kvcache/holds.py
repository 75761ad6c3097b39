"""Reference counts of segments that must stay where they are while somebody uses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Holds:
    """Counted, so holds may overlap. Not thread-safe: the catalogue's lock is held around it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def is_held(self, key: str) -> bool:
        """Say whether anybody holds the segment."""
        return key in self._counts

    def hold(self, keys: Iterable[str]) -> None:
        """Count one use more of each of these segments."""
        self._counts.update(keys)

    def release(self, keys: Iterable[str]) -> None:
        """End one use of each of these segments."""
        for key in keys:
            self._counts[key] -= 1
            if self._counts[key] <= 0:
                del self._counts[key]

"""A ranking of segments for the memory tiers, as it is handed down from outside."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from kvcache.entry import Entry
from kvcache.tiers import Rank

log = logging.getLogger(__name__)

Worth = Callable[[Sequence[Entry]], Sequence[float]]
"""Gives what segments are worth to a memory tier, 0 or more: the least leave first. It is handed down as a value, a
pure function of what it was made from, the entries and the time: it is called with the catalogue's lock held, by any
thread."""


class Ranker:
    """Ranks by the ``Worth`` that was handed down last, and by the order of use where that fails: a ranking costs
    speed, never a request."""

    def __init__(self, entry: Callable[[str], Entry | None]) -> None:
        self._entry = entry
        self._worth: Worth | None = None
        self.failures = 0

    def use(self, worth: Worth | None) -> None:
        """Rank by ``worth`` from now on; None: the least recently used leave first. From any thread."""
        self._worth = worth

    @property
    def rank(self) -> Rank | None:
        """The rank of segments by their keys; None where none was handed down."""
        return None if self._worth is None else self._ranked

    def _ranked(self, keys: Sequence[str]) -> Sequence[float]:
        """Return what these segments are worth; they come in the order of use, the least recent first."""
        entries = [entry for key in keys if (entry := self._entry(key)) is not None]
        worth = self._worth
        if worth is None:  # it was withdrawn in this very moment
            return [float(i) for i in range(len(keys))]
        try:
            values = [float(value) for value in worth(entries)]
            if len(values) != len(keys) or any(math.isnan(value) for value in values):
                raise ValueError(f"{len(values)} values, or no numbers, for {len(keys)} segments")
        except Exception:
            # The worker's edge: whoever ranks is not ours, and the engine's thread must go on.
            self.failures += 1
            if self.failures == 1 or self.failures % 1000 == 0:  # it is asked at every eviction
                log.exception("segments could not be ranked, %d times so far; the last used are kept", self.failures)
            return [float(i) for i in range(len(keys))]
        return values

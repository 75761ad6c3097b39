"""Labels of deleted memories, so that work in flight cannot bring one back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

# Labels that are remembered, the latest.
_MAX_LABELS = 100_000


class Tombstones:
    """Not thread-safe: the catalogue's lock is held around it."""

    def __init__(self) -> None:
        self._labels: OrderedDict[str, None] = OrderedDict()

    def add(self, label: str) -> None:
        """Remember that the memory is deleted."""
        self._labels[label] = None
        while len(self._labels) > _MAX_LABELS:
            self._labels.popitem(last=False)

    def any_of(self, labels: Iterable[str]) -> bool:
        """Say whether one of the memories is deleted."""
        return any(label in self._labels for label in labels)

"""The disk tier's bytes: segments of every model, files in quarantine, and files that are being written, in one budget.

Room is made before anything is written, so that the budget holds at every moment: files in quarantine go first, then
of every model the least valuable chain end, that of the model that was not used for the longest time before others'.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from kvcache.errors import NoRoom
from kvcache.eviction import first_out, ranked
from kvcache.files.paths import bytes_of_files, paths_of, remove_files
from kvcache.files.quarantine import Quarantine
from kvcache.index import Entry, Index

# What is in quarantine may take this share of the budget.
_QUARANTINE_SHARE = 8


class DiskTier:
    """Not thread-safe: the store holds a lock around it.

    Parameters
    ----------
    budget: bytes that all files may take, the index's own aside.
    is_pinned: whether a segment (by key) must stay.
    remove: takes a segment out of every tier, by :meth:`delete` out of this one.
    """

    def __init__(
        self,
        folder: Path,
        index: Index,
        budget: int,
        is_pinned: Callable[[str], bool],
        remove: Callable[[str], None],
    ) -> None:
        self.budget = budget
        self.evictions = 0
        self.quarantine = Quarantine(folder)
        self._folder = folder
        self._index = index
        self._is_pinned = is_pinned
        self._remove = remove
        self._promised: dict[str, tuple[int, float]] = {}
        self.segment_bytes = sum(entry.disk_bytes for entry in index)

    @property
    def used(self) -> int:
        """Bytes that are taken, or promised to what is being written."""
        now = time.monotonic()
        promised = sum(nbytes for nbytes, until in self._promised.values() if until > now)
        return self.segment_bytes + self.quarantine.nbytes + promised

    # -- room ------------------------------------------------------------------------------------------------

    def promise(self, name: str, nbytes: int, *, entering: Entry | None = None, seconds: float = float("inf")) -> None:
        """Make room for a file of so many bytes, and keep it until :meth:`settle` (or for so many seconds). The segment
        that it is for, ``entering`` where the index has it, displaces nothing that is worth more. Raises ``NoRoom``."""
        self.settle(name)
        if not self.make_room(nbytes, entering):
            raise NoRoom(f"{nbytes} bytes do not fit into the disk's budget of {self.budget}")
        self._promised[name] = (nbytes, time.monotonic() + seconds)

    def settle(self, name: str) -> None:
        """Note that what was promised is there, or will not come."""
        self._promised.pop(name, None)

    def make_room(self, nbytes: int = 0, entering: Entry | None = None) -> bool:
        """Have what is worth least leave until ``nbytes`` more fit; ``entering``: see :meth:`promise`. False where they
        cannot."""
        if nbytes > self.budget:
            return False
        while self.used + nbytes > self.budget and self.quarantine.remove_oldest():
            pass
        if self.used + nbytes <= self.budget:
            return True
        leaving = ranked((entry for entry in self._index if entry.on_disk or entry is entering), time.time())
        while self.used + nbytes > self.budget:
            # A parent without its children is still a prefix; a child without its parent cannot be reached.
            leaf = first_out(leaving, self._may_leave)
            if leaf is None or leaf is entering:
                return False
            self.evictions += 1
            self._remove(leaf.key)
        return True

    def _may_leave(self, entry: Entry) -> bool:
        alive = self._index.get(entry.key) is entry
        held = entry.pinned or self._is_pinned(entry.key)
        return alive and not held and not self._index.has_children(entry.key)

    # -- files -----------------------------------------------------------------------------------------------

    def enter(self, key: str) -> None:
        """The files of a segment of the index are there now, or are others than before."""
        entry = self._index.get(key)
        assert entry is not None, "what is entered is known"
        before = entry.disk_bytes
        self._index.stored(key, bytes_of_files(paths_of(self._folder, key)))
        self.segment_bytes += entry.disk_bytes - before
        self.settle(key)
        self.make_room()

    def delete(self, entry: Entry) -> None:
        """Delete a segment's files."""
        if entry.on_disk:
            remove_files(self._folder, entry.key)
            self.segment_bytes -= entry.disk_bytes

    def lost(self, key: str) -> None:
        """A segment's files are not there any more."""
        entry = self._index.get(key)
        if entry is not None and entry.on_disk:
            self.segment_bytes -= entry.disk_bytes
            self._index.lost_file(key)

    def refuse(self, key: str) -> None:
        """Put a segment's files out of the way; those of one that the index does not know are deleted: nobody could say
        whose they are."""
        entry = self._index.get(key)
        if entry is None:
            remove_files(self._folder, key)
            return
        paths = paths_of(self._folder, key)
        if paths:
            self.quarantine.take(key, paths, self._index.labels_behind(key), chained=entry.root is None)
        self.lost(key)
        self.quarantine.expire(time.time())
        while self.quarantine.nbytes > self.budget // _QUARANTINE_SHARE:
            self.quarantine.remove_oldest()
        self.make_room()

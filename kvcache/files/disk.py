"""The disk as a tier: segments of every model, files in quarantine, and files that are being written, in one budget.

Room is made before anything is written, so that the budget holds at every moment: files in quarantine go first, then
of every model the least valuable chain end, that of the model that was not used for the longest time before others'.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from kvcache.codecs import CodecName, codec_for
from kvcache.copies import Allocate, fresh_memory
from kvcache.entry import Entry
from kvcache.errors import FingerprintMismatch, NoRoom, SegmentCorrupt, SegmentMissing
from kvcache.eviction import first_out, ranked
from kvcache.files.folder import SegmentFolder, bytes_of_files
from kvcache.files.quarantine import Quarantine
from kvcache.files.writer import Room, write_segment
from kvcache.fingerprint import Fingerprint
from kvcache.index import Index
from kvcache.segment import Segment
from kvcache.shard import Shard
from kvcache.tiers import TierName, Usage

log = logging.getLogger(__name__)
T = TypeVar("T")

# What is in quarantine may take this share of the budget.
_QUARANTINE_SHARE = 8


@dataclass(frozen=True)
class DiskOptions:
    """``budget``: bytes that all files may take, the index's own aside. ``fsync``: flush each file to disk before it
    counts as stored. ``codec``: how standalone segments are written; chained ones are exact and stay so."""

    budget: int
    fsync: bool
    codec: CodecName


class Disk:
    """Checked segment files. ``lock`` is the catalogue's: it is held around everything but :meth:`read`, :meth:`write`
    and :meth:`checked`, which take it for as long as they must.

    Parameters
    ----------
    is_held: says whether a segment (by key) must stay.
    is_behind: says whether a tier behind the disk has a segment, so that it is not lost with its files.
    leave: takes a segment out of every tier, by :meth:`remove` out of this one.
    """

    name: TierName = "disk"

    def __init__(
        self,
        folder: SegmentFolder,
        index: Index,
        lock: threading.RLock,
        options: DiskOptions,
        *,
        is_held: Callable[[str], bool],
        is_behind: Callable[[str], bool],
        leave: Callable[[str], None],
    ) -> None:
        self.options = options
        self.budget = options.budget
        self.evictions = 0
        self.refused = 0
        self.quarantine = Quarantine(folder.path)
        self._folder = folder
        self._index = index
        self._lock = lock
        self._is_held = is_held
        self._is_behind = is_behind
        self._leave = leave
        self._promised: dict[str, tuple[int, float]] = {}
        self.segment_bytes = sum(entry.disk_bytes for entry in index)

    @property
    def used(self) -> int:
        """Bytes that are taken, or promised to what is being written."""
        now = time.monotonic()
        promised = sum(nbytes for nbytes, until in self._promised.values() if until > now)
        return self.segment_bytes + self.quarantine.nbytes + promised

    def usage(self) -> Usage:
        """Return what the segments take, and the budget."""
        segments = sum(entry.on_disk for entry in self._index)
        return Usage(self.segment_bytes, self.budget, segments, self.evictions)

    # -- as a tier -------------------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Say whether the segment has files here."""
        entry = self._index.get(key)
        return entry is not None and entry.on_disk

    def read(
        self,
        key: str,
        fingerprint: Fingerprint,
        *,
        allocate: Allocate = fresh_memory,
        stop: Callable[[], bool] | None = None,
    ) -> Segment:
        """Read, check and decode a segment into host memory from ``allocate``. Raises ``SegmentMissing`` (what is bad
        is in quarantine then), ``ReadInterrupted``."""
        layout = fingerprint.layout
        whole = Shard.whole(layout.layers, layout.kv_heads)
        return self.checked(key, lambda: self._folder.read(key, fingerprint, whole, allocate=allocate, stop=stop))

    def checked(self, key: str, read: Callable[[], T]) -> T:
        """Read; put what cannot be read out of the way. Raises ``SegmentMissing`` then."""
        try:
            return read()
        except FileNotFoundError:
            log.warning("segment %s has vanished from the disk", key[:12])
            with self._lock:
                self.lost(key)
        except (SegmentCorrupt, FingerprintMismatch) as error:
            log.warning("quarantined: %s", error)
            with self._lock:
                self.refuse(key)
        except OSError as error:
            log.warning("segment %s cannot be read: %s", key[:12], error.strerror)
            with self._lock:
                self.refuse(key)
        raise SegmentMissing(key)

    def write(self, segment: Segment) -> None:
        """Write a segment's file, unless it is deleted meanwhile. Raises ``NoRoom``, ``OSError``."""
        path = self._folder.path_of(segment.key)
        with self.room_for(segment.key, self._index.get(segment.key)) as room:
            write_segment(path, segment, codec=self.codec_of(segment), fsync=self.options.fsync, room=room)
            with self._lock:
                if self._index.get(segment.key) is None:  # deleted while it was being written
                    path.unlink(missing_ok=True)
                else:  # pages also come from bundles, and this one may have come meanwhile
                    self.enter(segment.key)

    def codec_of(self, segment: Segment) -> CodecName:
        """Return the name of the codec that the segment is written with."""
        return codec_for(self.options.codec, standalone=segment.root is not None)

    def remove(self, key: str) -> None:
        """Delete a segment's files, where there are any."""
        entry = self._index.get(key)
        if entry is not None and entry.on_disk:
            self._folder.remove(key)
            self.segment_bytes -= entry.disk_bytes

    # -- room ------------------------------------------------------------------------------------------------

    @contextmanager
    def room_for(self, name: str, entering: Entry | None = None) -> Iterator[Room]:
        """Give a function that makes room for a file, which is promised to it while the block runs; ``entering``: as
        :meth:`promise`. Not under the lock."""

        def room(nbytes: int) -> None:
            with self._lock:
                self.promise(name, nbytes, entering=entering)

        try:
            yield room
        finally:
            with self._lock:
                self.settle(name)

    def promise(self, name: str, nbytes: int, *, entering: Entry | None = None, seconds: float = float("inf")) -> None:
        """Make room for a file of ``nbytes``, and keep it until :meth:`settle`, or for at most ``seconds``. The segment
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

        def may_leave(entry: Entry) -> bool:
            return (entry.on_disk or entry is entering) and self._may_leave(entry)

        leaving = ranked((entry for entry in self._index if entry.on_disk or entry is entering), time.time())
        while self.used + nbytes > self.budget:
            leaf = first_out(leaving, may_leave)
            if leaf is None or leaf is entering:
                return False
            self._evict(leaf)
        return True

    def _may_leave(self, entry: Entry) -> bool:
        """Say whether an entry of the index may leave. What has left before is none any more."""
        alive = self._index.get(entry.key) is entry
        if not alive or entry.protected or self._is_held(entry.key):
            return False
        # A parent without its children is still a prefix; a child without its parent cannot be reached.
        return not self._index.has_children(entry.key) or self._is_behind(entry.key)

    def _evict(self, entry: Entry) -> None:
        self.evictions += 1
        if self._is_behind(entry.key):
            self.remove(entry.key)
            self._index.lost_file(entry.key)
        else:
            self._leave(entry.key)

    # -- files -----------------------------------------------------------------------------------------------

    def enter(self, key: str) -> None:
        """Take it that the files of a segment of the index are there now, or are others than before."""
        entry = self._index.get(key)
        assert entry is not None, "what is entered is known"
        before = entry.disk_bytes
        self._index.stored(key, bytes_of_files(self._folder.paths(key)))
        self.segment_bytes += entry.disk_bytes - before
        self.settle(key)
        self.make_room()

    def lost(self, key: str) -> None:
        """Take it that a segment's files are not there any more."""
        entry = self._index.get(key)
        if entry is not None and entry.on_disk:
            self.segment_bytes -= entry.disk_bytes
            self._index.lost_file(key)

    def refuse(self, key: str) -> None:
        """Put a segment's files out of the way; those of one that the index does not know are deleted: nobody could say
        whose they are."""
        self.refused += 1
        entry = self._index.get(key)
        if entry is None:
            self._folder.remove(key)
            return
        paths = self._folder.paths(key)
        if paths:
            self.quarantine.take(key, paths, self._index.labels_behind(key), chained=entry.root is None)
        self.lost(key)
        self.quarantine.expire(time.time())
        while self.quarantine.nbytes > self.budget // _QUARANTINE_SHARE:
            self.quarantine.remove_oldest()
        self.make_room()

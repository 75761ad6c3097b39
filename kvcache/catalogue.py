"""The catalogue: which segments exist, of which model, whose text they hold, in which tier they are.

A folder may hold segments of several models, of which one is at work at a time. Those of the others are never read, and
wait for their model until they are the least recently used ones; what is removed with a memory is removed of all.

By itself the catalogue knows one tier, the disk: that is what an engine whose keys and values lie in other processes
needs. ``kvcache.store.TieredStore`` puts its memory tiers before the disk, and whatever it is given behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kvcache.codecs import CodecName
from kvcache.config import StoreConfig
from kvcache.entry import Entry
from kvcache.errors import NoRoom, SegmentMissing, StoreClosed
from kvcache.files.disk import Disk, DiskOptions
from kvcache.files.folder import SegmentFolder
from kvcache.fingerprint import Fingerprint
from kvcache.holds import Holds
from kvcache.index import Index
from kvcache.ledger import PreloadLedger
from kvcache.ranking import Ranker
from kvcache.segment import Certificate, Part, root_of
from kvcache.stats import Counts, Garbage, StoreStats, shares
from kvcache.tiers import TIERS, Holder, MemoryTier, TierName, Usage
from kvcache.tombstones import Tombstones

# What another process was to write, and has not by then, it has failed to.
_EXPECTED_S = 120.0
# Headers of a few shards.
_FILES_OVERHEAD = 32 << 10


class Catalogue:
    """Every known segment, content-addressed. All methods may be called from any thread.

    ``lock`` is held around the index and whatever the tiers say of themselves; a store of tiers shares it.

    Parameters
    ----------
    folder: where the files lie; created with mode 0700. One process at a time may use it.
    disk_bytes: budget of all files, the index's own aside.
    fsync: flush each file to disk before it counts as stored.
    codec: how standalone segments are written. Chained ones are exact and stay so: a lossy codec leaves them as
        they are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        disk_bytes: int = StoreConfig.disk_bytes,
        fsync: bool = StoreConfig.fsync,
        codec: CodecName = StoreConfig.codec,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = SegmentFolder(folder)
        self.lock = threading.RLock()
        self.taking_in = threading.Lock()
        self.index = Index(self.folder)
        self.holds = Holds()
        self.ledger = PreloadLedger()
        self.counts = Counts()
        self.ranker = Ranker(self.index.get)
        self.is_closed = self._is_ended = False
        self._deleted = Tombstones()
        self.disk = Disk(
            self.folder,
            self.index,
            self.lock,
            DiskOptions(disk_bytes, fsync, codec),
            is_held=self.holds.is_held,
            is_behind=lambda key: any(tier.has(key) for tier in self.behind),
            leave=self._remove,
        )
        self.memory: tuple[MemoryTier, ...] = ()
        self.behind: tuple[Holder, ...] = ()
        self.tiers: tuple[Holder, ...] = (self.disk,)
        self.disk.make_room()  # the budget may be smaller than it was

    def attach(self, memory: Sequence[MemoryTier], behind: Sequence[Holder]) -> None:
        """Have segments also in memory, and in tiers behind the disk; the fastest first. Before the first use only."""
        self.memory, self.behind = tuple(memory), tuple(behind)
        self.tiers = (*memory, self.disk, *behind)

    # -- finding ---------------------------------------------------------------------------------------------

    def match(self, root: str, token_ids: Sequence[int]) -> list[Entry]:
        """Find the longest stored chain below ``root`` whose tokens begin ``token_ids``. No file is touched."""
        with self.lock:
            return self.index.match(root, token_ids)

    def find_part(self, part_key: str) -> list[tuple[Entry, Part]]:
        """Find the standalone segments that hold this part (see ``kvcache.Part.key``). No file is touched."""
        with self.lock:
            return self.index.with_part(part_key)

    def locate_part(self, part_key: str) -> tuple[str, int] | None:
        """Return the key of a segment that holds this part, and where in it; the same one each time. None: there is
        none."""
        return min(((entry.key, part.begin) for entry, part in self.find_part(part_key)), default=None)

    def tier_of(self, key: str, fingerprint: Fingerprint | None = None) -> TierName | None:
        """Return the fastest tier that holds the segment now; with a fingerprint, None where it is another model's."""
        with self.lock:
            entry = self.index.get(key)
            if entry is None or (fingerprint is not None and entry.fingerprint != fingerprint.digest):
                return None  # what any tier has is in the index
            for tier in self.tiers:
                if tier.has(key):
                    return tier.name
            return None

    def entries(self) -> list[Entry]:
        """List all known segments, of every model."""
        with self.lock:
            return list(self.index)

    # -- recording -------------------------------------------------------------------------------------------

    def enter(self, entry: Entry) -> bool:
        """Enter a segment that is in memory, or add labels to a known one.

        False when it is refused: its memory was deleted meanwhile, or the chain it belongs to is gone. Raises
        ``StoreClosed``.
        """
        with self.lock:
            if self._refuses(entry):
                return False
            self.index.add(entry)
            return True

    def record(self, entry: Entry) -> bool:
        """Enter a segment whose files another process has written.

        False when it is refused, as by :meth:`enter`: its files are then removed. Raises ``StoreClosed``.
        """
        with self.lock:
            known = self.index.get(entry.key)
            fresh = known is None or not known.on_disk
            if not self.enter(replace(entry, disk_bytes=0)):
                if known is None:
                    self.folder.remove(entry.key)
                return False
            if fresh:
                self.disk.enter(entry.key)
            return True

    def expect(self, key: str, nbytes: int) -> bool:
        """Make room for a segment with ``nbytes`` of keys and values that another process is about to write, until
        it is recorded (or was not, for long). False where there is none."""
        with self.lock:
            try:
                if not self.disk.has(key):
                    self.disk.promise(key, nbytes + _FILES_OVERHEAD, seconds=_EXPECTED_S)
            except NoRoom:
                return False
            return True

    def certify(self, key: str, certificate: Certificate) -> bool:
        """Enter the certificate of a page that is stored already. False when it is gone meanwhile.

        The index has it; the file, which is never written to, does not: a rebuilt index composes the page no more
        until it is certified again.
        """
        with self.lock:
            if self.index.get(key) is None:
                return False
            self.index.set_certificate(key, certificate)
            return True

    def touch(self, key: str, tier: TierName) -> None:
        """Count a use of a segment that was loaded from ``tier``, here or by another process."""
        with self.lock:
            self.counts.hit(tier)
            self.ledger.used(key)
            if self.index.get(key) is not None:
                self.index.touch(key)

    def protect(self, key: str, on: bool = True) -> None:
        """Never evict the segment from disk, or let it be evicted again. Raises ``SegmentMissing``."""
        with self.lock:
            if self.index.get(key) is None:
                raise SegmentMissing(key)
            self.index.set_protected(key, on)

    def quarantine(self, key: str) -> None:
        """Put a segment's files out of the way, to be looked at: they were found to be bad (or are missing)."""
        with self.lock:
            self.disk.refuse(key)
            self.drop_if_nowhere(key)

    def drop_if_nowhere(self, key: str) -> None:
        """Forget the segment where no tier has it (any more)."""
        with self.lock:
            if self.index.get(key) is not None and self.tier_of(key) is None:
                self.index.forget(key)

    def _refuses(self, entry: Entry) -> bool:
        if self.is_closed:
            raise StoreClosed("the segment store is closed")
        orphan = entry.root is None and entry.start > 0 and self.index.get(entry.parent) is None
        return orphan or self._deleted.any_of(entry.labels)

    # -- removing --------------------------------------------------------------------------------------------

    def remove_label(self, label: str) -> list[str]:
        """Remove every segment that holds this memory's text, and all computed behind one, from every tier, whichever
        model it is of; also what is in quarantine.

        Segments with that label are refused from now on. Returns the keys of what was removed.
        """
        with self.lock:
            self._deleted.add(label)
            self.disk.quarantine.remove_label(label)
            return self._remove_all(self.index.with_descendants(self.index.with_label(label)))

    def remove_chains(self, salt: str) -> list[str]:
        """Remove all chained segments of a tenant (see ``kvcache.root_key``), of every model, from every tier; also
        those behind a gap and in quarantine, of which nobody could say whose they are. Returns their keys."""
        with self.lock:
            models = {entry.fingerprint for entry in self.index}
            keys = [key for model in models for key in self.index.below(root_of(model, salt))]
            removed = self._remove_all([*keys, *self.index.unreachable()])
            self.disk.quarantine.remove_chained()
            return removed

    def sweep(self, keep_labels: set[str]) -> int:
        """Remove the segments of memories that are gone (a crash may have come between the two deletions). Returns how
        many there were."""
        with self.lock:
            labels = self.index.labels() | self.disk.quarantine.labels()
            return sum(len(self.remove_label(label)) for label in labels - keep_labels)

    def collect_garbage(self) -> Garbage:
        """Remove what cannot be used: segments behind a gap in their chain, and the files in quarantine."""
        with self.lock:
            unreachable = self._remove_all(self.index.unreachable())
            return Garbage(len(unreachable), self.disk.quarantine.clear())

    def clear(self) -> int:
        """Remove all segments from every tier, and what is in quarantine. Returns how many segments there were."""
        with self.lock:
            keys = self._remove_all([entry.key for entry in self.index])
            self.disk.quarantine.clear()
            return len(keys)

    def _remove_all(self, keys: list[str]) -> list[str]:
        for key in keys:
            self._remove(key)
        return keys

    def _remove(self, key: str) -> None:
        """Take a segment out of every tier. The file goes first: a row without a file is only a miss."""
        for tier in self.tiers:
            tier.remove(key)
        self.ledger.left(key)
        self.index.forget(key)

    # -- looking ---------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """Return the counters, and what each tier holds now."""
        with self.lock:
            usage: dict[TierName, Usage] = {tier: Usage() for tier in TIERS}
            usage |= {tier.name: tier.usage() for tier in self.memory}
            usage["disk"] = self.disk.usage()
            return StoreStats(
                hits={tier: self.counts.hits[tier] for tier in TIERS},
                misses=self.counts.misses,
                quarantined=self.disk.refused,
                write_errors=self.counts.write_errors,
                dropped_writes=self.counts.dropped_writes,
                evictions={tier: used.evictions for tier, used in usage.items()},
                bytes={tier: used.nbytes for tier, used in usage.items()},
                budgets={tier: used.budget for tier, used in usage.items()},
                segments={tier: used.segments for tier, used in usage.items()},
                preloads=self.ledger.stats,
                models=shares(self.index),
                in_quarantine=len(self.disk.quarantine),
                quarantine_bytes=self.disk.quarantine.nbytes,
                failed_ranks=self.ranker.failures,
            )

    def close(self) -> None:
        """Close the index, and take nothing in from now on. Calling it twice is harmless."""
        with self.lock:
            self.is_closed = True
            if not self._is_ended:
                self._is_ended = True
                self.index.close()

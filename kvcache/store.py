"""The tiered store: segments in memory before the disk, where a model can attend to them.

    device   tensors the model can attend to at once       budget, least recently used leaves to host
    host     tensors in host memory                        budget, least recently used is dropped
    disk     one checked file a segment, index beside it   budget, least valuable chain end is deleted (files.disk)
    ...      whatever is put behind the disk               has each segment that is written, for as long as it likes

A segment is in at most one of the two memory tiers and, once its background write has ended, on disk as well. What is
put with ``durable=False`` is *held back*: written only when it would leave the last memory tier, or on closing.
On a CPU the device *is* the host, and a move between the two is a matter of accounting, not of copying. On a GPU what
leaves the device counts for the host at once, and is copied by another thread (kvcache.leaving): no copy is made, and
no memory pinned, under the lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from kvcache.catalogue import Catalogue
from kvcache.codecs import CodecName
from kvcache.config import StoreConfig
from kvcache.copies import CPU, Copied, indexed, use_device
from kvcache.entry import Entry
from kvcache.errors import FingerprintMismatch, SegmentMissing
from kvcache.fingerprint import Fingerprint
from kvcache.leaving import LeavingQueue
from kvcache.segment import Segment
from kvcache.tiers import MemoryTier, MemoryTierName, Tier, TierName
from kvcache.transfer import Transfer
from kvcache.writing import Writes

# Enough to keep a drive's queue filled while others are checked and decoded.
_READERS = 4


@dataclass(frozen=True)
class Loaded:
    """A segment on the device and the tier it was found in. ``host_ms`` went by until it was read, ``copied`` is its
    copy to the device (None where there was none to make), which may still be under way: what is computed from now on
    finds it there."""

    segment: Segment
    tier: TierName
    host_ms: float
    copied: Copied | None = None

    @property
    def load_ms(self) -> float:
        """Milliseconds that it took to bring the segment to the device. Waits for the copy's end."""
        return self.host_ms + (0.0 if self.copied is None else self.copied.seconds * 1e3)


class HostMemory(MemoryTier):
    """The host tier, with what waits there for being written."""

    def __init__(self, budget: int, writes: Callable[[], Writes]) -> None:
        super().__init__("host", budget)
        self._writes = writes

    def has(self, key: str) -> bool:
        """Say whether the segment is in host memory, for whichever reason."""
        return key in self._segments or key in self._writes().queue

    def remove(self, key: str) -> None:
        """Let go of the segment, and write it no more."""
        self.pop(key)
        self._writes().forget(key)


class TieredStore:
    """Content-addressed segments in tiers. All methods may be called from any thread.

    Parameters
    ----------
    folder: where the files lie; created with mode 0700. One process at a time may use it.
    device: where segments go when they are loaded.
    device_bytes, host_bytes, disk_bytes: budgets.
    fsync, codec: as :class:`~kvcache.catalogue.Catalogue`.
    behind: tiers that are asked when the disk does not have a segment, the fastest first. Whatever is written to disk
        is written to them too. What only they have is known for as long as this store is open.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device | None = None,
        device_bytes: int = StoreConfig.device_bytes,
        host_bytes: int = StoreConfig.host_bytes,
        disk_bytes: int = StoreConfig.disk_bytes,
        fsync: bool = StoreConfig.fsync,
        codec: CodecName = StoreConfig.codec,
        behind: Sequence[Tier] = (),
    ) -> None:
        self.catalogue = Catalogue(folder, disk_bytes=disk_bytes, fsync=fsync, codec=codec)
        self._lock = self.catalogue.lock
        self._index = self.catalogue.index
        self._is_held = self.catalogue.holds.is_held
        self._ranker = self.catalogue.ranker
        self._device = indexed(device or CPU)
        self._device_bytes = device_bytes
        self._transfer = Transfer(self._device, host_bytes)
        self._on_device = MemoryTier("device", device_bytes)
        self._on_host = HostMemory(host_bytes, lambda: self._writes)
        self._outside: tuple[Tier, ...] = (self.catalogue.disk, *behind)
        self._writes = Writes(
            self.catalogue, self._outside, self._device, in_memory=self._peek, to_host=self._moved_to_host
        )
        self._readers = ThreadPoolExecutor(_READERS, "segment-reader", use_device, (self._device,))
        # On a CPU nothing has to move.
        self._leaving = None if self._device == CPU else LeavingQueue(self._leave_device, self._device)
        self.catalogue.attach((self._on_device, self._on_host), behind)

    # -- loading ---------------------------------------------------------------------------------------------

    def load(self, key: str, fingerprint: Fingerprint) -> Loaded:
        """Return the segment on the device, kept there for the next use.

        Raises ``SegmentMissing`` when it is nowhere (any more), also when its file turned out to be bad: the
        file is then in quarantine and counted, and the caller computes the tokens instead. Raises
        ``FingerprintMismatch`` for another model's, which is left alone.
        """
        begin = time.perf_counter()
        with self._lock:
            tier = self.catalogue.tier_of(key)
            entry = self._index.get(key)
            if tier is None or entry is None:
                raise SegmentMissing(key)
            if entry.fingerprint != fingerprint.digest:
                raise FingerprintMismatch(f"segment {key[:12]} was computed by another model")
            in_memory = self._on_device.get(key) or self._on_host.get(key) or self._writes.queue.get(key)
        segment = in_memory if in_memory is not None else self._read(key, fingerprint)
        read_ms = (time.perf_counter() - begin) * 1e3
        # What was read is waited for in its reader's thread; what lies in host memory, by the device alone.
        segment, copied = self._transfer.to_device(segment, wait=in_memory is None)
        with self._lock:
            if self._index.get(key) is None:  # deleted while it was being read
                raise SegmentMissing(key)
            self.catalogue.touch(key, tier)
            if in_memory is None and tier != "disk":  # what is used is worth having near
                self._writes.write(segment)
            if key not in self._on_device:
                self._on_host.pop(key)
                self._admit(segment)
        return Loaded(segment, tier, read_ms, copied)

    def load_many(self, keys: Sequence[str], fingerprint: Fingerprint) -> list[Loaded | None]:
        """Load several segments at once: reads, checks and decoding overlap. None stands for one that is missing."""

        def load(key: str) -> Loaded | None:
            try:
                return self.load(key, fingerprint)
            except SegmentMissing:
                return None

        to_read = [key for key in dict.fromkeys(keys) if self.is_outside(key)]
        if len(to_read) < 2:
            return [load(key) for key in keys]
        read = dict(zip(to_read, self._readers.map(load, to_read), strict=True))
        return [read[key] if key in read else load(key) for key in keys]

    def is_outside(self, key: str) -> bool:
        """Say whether the segment has to be read: it is stored, and not in memory."""
        return self.catalogue.tier_of(key) not in (None, "device", "host")

    def preload(
        self,
        key: str,
        fingerprint: Fingerprint,
        tier: MemoryTierName = "host",
        stop: Callable[[], bool] | None = None,
    ) -> int:
        """Bring a segment up to ``tier`` before it is asked for; return the bytes moved, 0 where there was nothing to
        do, it is gone, or what it would displace is worth more. It is no use: nothing counts as one. Raises
        ``ReadInterrupted`` once ``stop`` says so."""
        begin = time.perf_counter()
        with self._lock:
            entry = self._wanted_up(key, fingerprint, tier)
            if entry is None:
                return 0
            in_memory = self._on_host.get(key) or self._writes.queue.get(key)
        try:
            segment = in_memory if in_memory is not None else self._read(key, fingerprint, stop)
        except SegmentMissing:
            return 0
        if tier == "device":
            segment, _ = self._transfer.to_device(segment, wait=True)
        with self._lock:
            if self._index.get(key) is None or key in self._on_device:  # deleted, or asked for, meanwhile
                return 0
            if tier == "device":
                self._on_host.pop(key)
                self._admit(segment)
            else:
                self._admit_host([segment])
            moved = segment.nbytes if key in self._on_device or key in self._on_host else 0
            if moved:
                self.catalogue.ledger.moved(key, moved, time.perf_counter() - begin)
            return moved

    def _wanted_up(self, key: str, fingerprint: Fingerprint, tier: MemoryTierName) -> Entry | None:
        """Return the entry of a segment that lies below ``tier`` and would be let in there."""
        found, entry = self.catalogue.tier_of(key, fingerprint), self._index.get(key)
        if entry is None or found in (None, "device", tier):
            return None
        to = self._on_device if tier == "device" else self._on_host
        return entry if to.has_room(key, entry.nbytes, self._is_held, self._ranker.rank) else None

    def _read(self, key: str, fingerprint: Fingerprint, stop: Callable[[], bool] | None = None) -> Segment:
        """Read a segment from the first tier outside of memory that has it. Raises ``SegmentMissing``,
        ``ReadInterrupted``."""
        for tier in self._outside:
            with self._lock:
                is_here = tier.has(key)
            if is_here:
                with suppress(SegmentMissing):  # it was evicted in this very moment: another one may have it
                    return tier.read(key, fingerprint, allocate=self._transfer.allocate, stop=stop)
        self.catalogue.drop_if_nowhere(key)
        raise SegmentMissing(key)

    def as_read(self, segment: Segment) -> Segment:
        """Return the segment with the numbers that reading its file would give, so that they are the same in every
        tier."""
        return self._transfer.as_read(segment, self.catalogue.disk.codec_of(segment))

    def hold(self, keys: Iterable[str]) -> None:
        """Keep these segments from being evicted until :meth:`release`; counted, so holds may overlap."""
        with self._lock:
            self.catalogue.holds.hold(keys)

    def release(self, keys: Iterable[str]) -> None:
        """End one hold of each of these segments."""
        with self._lock:
            self.catalogue.holds.release(keys)

    # -- storing ---------------------------------------------------------------------------------------------

    def put(self, segment: Segment, *, durable: bool = True) -> bool:
        """Hold the segment on the device and write it to disk: in the background or, where it is not ``durable``, when
        it would leave memory (also: :meth:`persist`, :meth:`flush`, :meth:`close`; a crash loses it).

        False when it is refused: its memory was deleted meanwhile, or the chain it belongs to is gone. Raises
        ``StoreClosed``.
        """
        key = segment.key
        with self._lock:
            if not self.catalogue.enter(Entry.of(segment)):
                return False
            if not self.catalogue.disk.has(key) and key not in self._writes.queue:
                if durable:
                    self._writes.write(segment)
                else:
                    self._writes.hold_back(key)
            self._admit(segment)
            self.catalogue.drop_if_nowhere(key)
            return True

    def persist(self, keys: Iterable[str]) -> None:
        """Write those of the segments that are held back, in the background, and what is held back of the chains before
        them. What the queue has no room for stays held back."""
        with self._lock:
            self._writes.persist(keys)

    def flush(self) -> None:
        """Wait until all that was put is on disk (or has failed and been counted)."""
        self._writes.write_held()
        self._writes.queue.join()
        with self._lock:
            self._index.save()

    # -- giving memory back ----------------------------------------------------------------------------------

    def demote(self, tier: TierName) -> None:
        """Empty the tiers above ``tier``: everything that is not held goes to host memory, and is there, or is on disk
        only."""
        if tier == "disk":
            self._writes.write_held()
        self._writes.queue.join()
        with self._lock:
            segments = self._take_all(self._on_device)
            if tier == "disk":
                segments += self._take_all(self._on_host)
            if tier == "host":
                self._admit_host(segments)
            else:
                self._leave_memory(segments)
            for entry in self._index:
                self.catalogue.drop_if_nowhere(entry.key)
        self._settle_moves()

    def free_device(self) -> int:
        """Give the device's memory back, but for what is held: it is in host memory then, or on disk only. Returns the
        bytes that were freed."""
        with self._lock:
            freed = self._take_all(self._on_device)
            self._on_device.evictions += len(freed)
            self._admit_host(freed)
        self._settle_moves()
        return sum(segment.nbytes for segment in freed)

    def reserve_device(self, nbytes: int | None) -> None:
        """Leave the device tier at most ``nbytes``, where that is less than its budget; None: all of its budget.
        What has to leave for that goes to host memory."""
        with self._lock:
            budget = self._device_bytes if nbytes is None else max(0, min(self._device_bytes, nbytes))
            if budget != self._on_device.budget:
                evicted = self._on_device.shrink(budget, self._is_held, self._ranker.rank)
                self._on_device.evictions += len(evicted)
                self._admit_host(evicted)

    def close(self) -> None:
        """Write what is held back, finish the background writes and close the index. Calling it twice is harmless."""
        with self._lock:
            if self.catalogue.is_closed:
                return
            self.catalogue.is_closed = True
        self._readers.shutdown(wait=True)
        self._writes.write_held()
        self._writes.queue.close()
        if self._leaving is not None:
            self._leaving.close()
        self._transfer.settle()
        self.catalogue.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _peek(self, key: str) -> Segment | None:
        return self._on_device.peek(key) or self._on_host.peek(key)

    def _take_all(self, tier: MemoryTier) -> list[Segment]:
        """Take all out of a tier that is not held, in the order in which the segments came to be known."""
        keys = [entry.key for entry in self._index if entry.key in tier and not self._is_held(entry.key)]
        return [segment for key in keys if (segment := tier.pop(key)) is not None]

    def _admit(self, segment: Segment) -> None:
        evicted = self._on_device.put(segment, self._is_held, self._ranker.rank)
        self._on_device.evictions += len(evicted)
        self._admit_host(evicted)

    def _admit_host(self, segments: Sequence[Segment]) -> None:
        dropped = [out for segment in segments for out in self._on_host.put(segment, self._is_held, self._ranker.rank)]
        self._on_host.evictions += len(dropped)
        self._leave_memory(dropped)
        for segment in segments:
            if self._leaving is not None and self._on_host.has(segment.key) and segment.keys.device != CPU:
                self._leaving.offer(segment)

    def _leave_memory(self, segments: Sequence[Segment]) -> None:
        """See to segments that are in no memory tier any more: what was held back is written now."""
        for segment in sorted(segments, key=lambda segment: segment.start):  # parents before their children
            self.catalogue.ledger.left(segment.key)
            if self._writes.is_held_back(segment.key):
                self._writes.write(segment)
            self.catalogue.drop_if_nowhere(segment.key)

    def _leave_device(self, segment: Segment) -> None:
        """Copy a segment that has left the device to host memory, where it is still wanted there."""
        with self._lock:
            if self._on_host.peek(segment.key) is not segment and self._writes.queue.get(segment.key) is not segment:
                return
        there = self._transfer.to_host(segment)
        with self._lock:
            self._on_host.replace(segment, there)
            self._writes.queue.replace(segment, there)

    def _moved_to_host(self, segment: Segment) -> Segment:
        """Return a segment that is being written in host memory, and hold it there in its place."""
        there = self._transfer.to_host(segment)
        if there is not segment:
            with self._lock:
                self._on_host.replace(segment, there)
        return there

    def _settle_moves(self) -> None:
        """Wait until what has left the device is in host memory."""
        if self._leaving is not None:
            self._leaving.join()

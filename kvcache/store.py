"""The segment store: one place that knows which segments exist and in which tier they are.

    device   tensors the model can attend to at once       budget, least recently used leaves to host
    host     tensors in host memory                        budget, least recently used is dropped
    disk     one checked file a segment, index beside it   budget, least valuable chain end is deleted (files.disk)

A segment is in at most one of the two memory tiers and, once its background write has ended, on disk as well. What is
put with ``durable=False`` is *held back*: written only when it would leave the last memory tier, or on closing.
On a CPU the device *is* the host, and a move between the two is a matter of accounting, not of copying. On a GPU what
leaves the device counts for the host at once, and is copied by another thread (kvcache.leaving): no copy is made, and
no memory pinned, under the lock.

A folder may hold segments of several models, of which one is at work at a time. Those of the others are never read, and
wait for their model until they are the least recently used ones; what is removed with a memory is removed of all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch

from kvcache.arena import PinnedMemory
from kvcache.codecs import CODECS, CodecName, codec_for
from kvcache.copies import CPU, Allocate, Copied, Copies, indexed, use_device
from kvcache.errors import FingerprintMismatch, NoRoom, SegmentCorrupt, SegmentMissing, StoreClosed
from kvcache.files.disk import DiskTier
from kvcache.files.exchange import SegmentFile, read_file, received
from kvcache.files.paths import remove_files, segment_path
from kvcache.files.reader import read_segment
from kvcache.files.recycling import Recycler
from kvcache.files.shards import read_shard
from kvcache.files.writer import Room, rewrite_labels, write_segment
from kvcache.fingerprint import Fingerprint
from kvcache.index import Entry, Index
from kvcache.leaving import LeavingQueue
from kvcache.ledger import PreloadLedger
from kvcache.ranking import Ranking, Worth
from kvcache.segment import Certificate, Part, Segment, root_of
from kvcache.shard import Shard
from kvcache.stats import Garbage, StoreStats, shares
from kvcache.tiers import TIERS, MemoryTier, TierName
from kvcache.writing import WriteQueue

log = logging.getLogger(__name__)

MemoryTierName = Literal["device", "host"]
T = TypeVar("T")

# Labels of deleted memories are remembered this long (in count), so that work in flight cannot bring one back.
_MAX_DEAD_LABELS = 100_000
# Memory that is kept for the next segment to be read.
_SPARE_BYTES = 256 << 20
# Pinned beside the host tier's budget, for what is only on its way through host memory: so much at most, and no more
# than a quarter of the budget.
_STAGING_BYTES = 1 << 30
# What another process was to write, and has not by then, it has failed to.
_EXPECTED_S = 120.0
# Headers of a few shards.
_FILES_OVERHEAD = 32 << 10
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


class SegmentStore:
    """Content-addressed segments in tiers. All methods may be called from any thread.

    Parameters
    ----------
    folder: where the files lie; created with mode 0700. One process at a time may use it.
    device: where segments go when they are loaded.
    device_bytes, host_bytes, disk_bytes: budgets.
    fsync: flush each file to disk before it counts as stored.
    codec: how standalone segments are written. Chained ones are exact and stay so: a lossy codec leaves them as
        they are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device | None = None,
        device_bytes: int = 2 << 30,
        host_bytes: int = 4 << 30,
        disk_bytes: int = 20 << 30,
        fsync: bool = True,
        codec: CodecName = "none",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._device = indexed(device or CPU)
        self._fsync = fsync
        self._codec: CodecName = codec
        self._lock = threading.RLock()
        self._taking = threading.Lock()
        self._index = Index(folder)
        self._device_bytes = device_bytes
        self._on_device = MemoryTier(device_bytes)
        self._on_host = MemoryTier(host_bytes)
        self._pins: Counter[str] = Counter()
        self._ranking = Ranking(self._index.get)
        self._dead_labels: OrderedDict[str, None] = OrderedDict()
        self._hits: Counter[TierName] = Counter()
        self._evictions: Counter[TierName] = Counter()
        self._ledger = PreloadLedger()
        self._misses = self._quarantined = self._write_errors = self._dropped_writes = 0
        self._closed = False
        self._held: set[str] = set()  # in a memory tier only, to be written when they would leave it
        self._copies = Copies(self._device)
        self._allocate = self._host_memory(host_bytes)
        on_device = (use_device, (self._device,))
        self._readers = ThreadPoolExecutor(_READERS, "segment-reader", *on_device)
        self._writes = WriteQueue(self._write_queued, self._device)
        # On a CPU nothing has to move.
        self._leaving = None if self._device == CPU else LeavingQueue(self._move, self._device)
        self.disk = DiskTier(folder, self._index, disk_bytes, self._is_pinned, self._remove)
        self.disk.make_room()  # the budget may be smaller than it was

    def _host_memory(self, host_bytes: int) -> Allocate:
        if self._device.type != "cuda":
            return Recycler(_SPARE_BYTES).allocate
        return PinnedMemory(host_bytes + min(_STAGING_BYTES, host_bytes // 4), self._device).allocate

    # -- finding ---------------------------------------------------------------------------------------------

    def match(self, root: str, token_ids: Sequence[int]) -> list[Entry]:
        """The longest stored chain below ``root`` whose tokens begin ``token_ids``. No file is touched."""
        with self._lock:
            return self._index.match(root, token_ids)

    def find_part(self, part_key: str) -> list[tuple[Entry, Part]]:
        """The standalone segments that hold this part (see ``kvcache.Part.key``). No file is touched."""
        with self._lock:
            return self._index.with_part(part_key)

    def place_of(self, part_key: str) -> tuple[str, int] | None:
        """The key of a segment that holds this part, and where in it; the same one each time. None: there is none."""
        return min(((entry.key, part.begin) for entry, part in self.find_part(part_key)), default=None)

    def codec_of(self, segment: Segment) -> CodecName:
        """How the segment is written."""
        return codec_for(self._codec, standalone=segment.root is not None)

    def as_read(self, segment: Segment) -> Segment:
        """The segment with the numbers that reading its file would give, so that they are the same in every tier."""
        codec = CODECS[self.codec_of(segment)]
        if codec.lossless:
            return segment
        there = self._copies.to_host((segment.keys, segment.values), self._allocate)
        keys, values = (torch.empty_like(tensor) for tensor in there)
        codec.decode(codec.encode(*there), keys, values)
        return self._to_device(replace(segment, keys=keys, values=values), wait=False)[0]

    def _to_device(self, segment: Segment, *, wait: bool) -> tuple[Segment, Copied | None]:
        (keys, values), copied = self._copies.to_device((segment.keys, segment.values), wait=wait)
        return (segment if keys is segment.keys else replace(segment, keys=keys, values=values)), copied

    def _to_host(self, segment: Segment) -> Segment:
        """The segment in host memory, all of its bytes there. Not under the lock: it waits for the device."""
        keys, values = self._copies.to_host((segment.keys, segment.values), self._allocate)
        return segment if keys is segment.keys else replace(segment, keys=keys, values=values)

    def tier_of(self, key: str, fingerprint: Fingerprint | None = None) -> TierName | None:
        """The fastest tier that holds the segment now; with a fingerprint, None where it is another model's."""
        with self._lock:
            if fingerprint is not None and self._is_of_another(key, fingerprint):
                return None
            if key in self._on_device:
                return "device"
            if key in self._on_host or key in self._writes:
                return "host"
            entry = self._index.get(key)
            return "disk" if entry is not None and entry.on_disk else None

    def load(self, key: str, fingerprint: Fingerprint) -> Loaded:
        """The segment on the device, kept there for the next use.

        Raises ``SegmentMissing`` when it is nowhere (any more), also when its file turned out to be bad: the
        file is then in quarantine and counted, and the caller computes the tokens instead. Raises
        ``FingerprintMismatch`` for another model's, which is left alone.
        """
        begin = time.perf_counter()
        with self._lock:
            tier = self.tier_of(key)
            if tier is None:
                raise SegmentMissing(key)
            if self._is_of_another(key, fingerprint):
                raise FingerprintMismatch(f"segment {key[:12]} was computed by another model")
            in_memory = self._on_device.get(key) or self._on_host.get(key) or self._writes.get(key)
        segment = in_memory if in_memory is not None else self._read(key, fingerprint)
        read_ms = (time.perf_counter() - begin) * 1e3
        # What was read is waited for in its reader's thread; what lies in host memory, by the device alone.
        segment, copied = self._to_device(segment, wait=in_memory is None)
        with self._lock:
            if self._index.get(key) is None:  # deleted while it was being read
                raise SegmentMissing(key)
            self._hits[tier] += 1
            self._index.touch(key)
            self._ledger.used(key)
            if key not in self._on_device:
                self._on_host.pop(key)
                self._admit(segment)
        return Loaded(segment, tier, read_ms, copied)

    def load_many(self, keys: Sequence[str], fingerprint: Fingerprint) -> list[Loaded | None]:
        """Several segments at once: reads, checks and decoding overlap. None stands for one that is missing."""

        def load(key: str) -> Loaded | None:
            try:
                return self.load(key, fingerprint)
            except SegmentMissing:
                return None

        on_disk = [key for key in dict.fromkeys(keys) if self.tier_of(key) == "disk"]
        if len(on_disk) < 2:
            return [load(key) for key in keys]
        read = dict(zip(on_disk, self._readers.map(load, on_disk), strict=True))
        return [read[key] if key in read else load(key) for key in keys]

    def preload(
        self,
        key: str,
        fingerprint: Fingerprint,
        tier: MemoryTierName = "host",
        stop: Callable[[], bool] | None = None,
    ) -> int:
        """Bring a segment up to ``tier`` before it is asked for; the bytes moved, 0 where there was nothing to do, it
        is gone, or what it would displace is worth more. It is no use: nothing counts as one. Raises
        ``ReadInterrupted`` once ``stop`` says so."""
        begin = time.perf_counter()
        with self._lock:
            found = self.tier_of(key, fingerprint)
            entry = self._index.get(key)
            if found is None or entry is None or TIERS.index(found) <= TIERS.index(tier):
                return 0
            to = self._on_device if tier == "device" else self._on_host
            if not to.has_room(key, entry.nbytes, self._is_pinned, self._rank):
                return 0
            in_memory = self._on_host.get(key) or self._writes.get(key)
        try:
            segment = in_memory if in_memory is not None else self._read(key, fingerprint, stop)
        except SegmentMissing:
            return 0
        if tier == "device":
            segment, _ = self._to_device(segment, wait=True)
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
                self._ledger.moved(key, moved, time.perf_counter() - begin)
            return moved

    def set_worth(self, worth: Worth | None) -> None:
        """Say what segments are worth to the memory tiers from now on; None: the least recently used leave first."""
        with self._lock:
            self._ranking.use(worth)

    def _is_of_another(self, key: str, fingerprint: Fingerprint) -> bool:
        entry = self._index.get(key)
        return entry is not None and entry.fingerprint != fingerprint.digest

    def holding(self, labels: Iterable[str], root: str, fingerprint: Fingerprint) -> list[Entry]:
        """Segments of this model that hold any of these memories: chained ones, and the pages below ``root`` (see
        ``kvcache.standalone_root``)."""
        with self._lock:
            keys = {key for label in labels for key in self._index.with_label(label)}
            found = [entry for key in sorted(keys) if (entry := self._index.get(key)) is not None]
        return [entry for entry in found if entry.root in (None, root) and entry.fingerprint == fingerprint.digest]

    def count_miss(self, n: int = 1) -> None:
        """Count pieces that were looked for and had to be computed."""
        with self._lock:
            self._misses += n

    @contextmanager
    def pinned(self, keys: Iterable[str]) -> Iterator[None]:
        """Keep these segments from being evicted from memory while the block runs."""
        held = list(keys)
        self.pin(held)
        try:
            yield
        finally:
            self.unpin(held)

    def pin(self, keys: Iterable[str]) -> None:
        """Keep these segments in memory until :meth:`unpin`; counted, so pins may overlap."""
        with self._lock:
            self._pins.update(keys)

    def unpin(self, keys: Iterable[str]) -> None:
        with self._lock:
            self._pins.subtract(keys)
            for key in [key for key, count in self._pins.items() if count <= 0]:
                del self._pins[key]

    # -- storing ---------------------------------------------------------------------------------------------

    def put(self, segment: Segment, *, durable: bool = True) -> bool:
        """Hold the segment on the device and write it to disk: in the background or, where it is not ``durable``, when
        it would leave memory (also: :meth:`persist`, :meth:`flush`, :meth:`close`; a crash loses it).

        False when it is refused: its memory was deleted meanwhile, or the chain it belongs to is gone.
        """
        with self._lock:
            if self._closed:
                raise StoreClosed("the segment store is closed")
            entry = Entry.of(segment)
            if self._refuses(entry):
                return False
            known = self._index.get(segment.key)
            self._index.add(entry)
            if (known is None or not known.on_disk) and segment.key not in self._writes:
                if durable:
                    self._write_or_drop(segment)
                else:
                    self._held.add(segment.key)
            self._admit(segment)
            self._drop_if_nowhere(segment.key)
            return True

    def record(self, entry: Entry) -> bool:
        """Enter a segment whose files another process has written.

        False when it is refused, as by :meth:`put`: its files are then removed.
        """
        with self._lock:
            if self._closed:
                raise StoreClosed("the segment store is closed")
            if self._refuses(entry):
                if self._index.get(entry.key) is None:
                    remove_files(self._folder, entry.key)
                return False
            known = self._index.get(entry.key)
            fresh = known is None or not known.on_disk
            self._index.add(replace(entry, disk_bytes=0))
            if fresh:
                self.disk.enter(entry.key)
            return True

    def expect(self, key: str, nbytes: int) -> bool:
        """Make room for a segment with so many bytes of keys and values that another process is about to write, until
        it is recorded (or was not, for long). False where there is none."""
        with self._lock:
            known = self._index.get(key)
            try:
                if known is None or not known.on_disk:
                    self.disk.promise(key, nbytes + _FILES_OVERHEAD, seconds=_EXPECTED_S)
            except NoRoom:
                return False
            return True

    def read_file(self, key: str, fingerprint: Fingerprint) -> SegmentFile:
        """A segment's file as it is on disk, checked. Raises ``SegmentMissing``: there is none, it is in shards, or it
        was bad and is now in quarantine."""
        path = segment_path(self._folder, key)
        if self.tier_of(key, fingerprint) is None or not path.exists():
            raise SegmentMissing(key)
        return self._or_missing(key, lambda: read_file(path, fingerprint))

    def take_in(
        self,
        key: str,
        content: Iterable[bytes],
        digest: str,
        fingerprint: Fingerprint,
        labels: Mapping[str, str],
        certificate: Certificate,
    ) -> bool:
        """Keep the page that another store's :meth:`read_file` gave, with its labels replaced as ``labels`` says and
        this certificate. It is on disk then, and counts against the disk's budget as what is built here does.

        False when it is refused, as by :meth:`put`. Nothing is made of ``content`` unless ``digest`` is its hash:
        whoever calls answers for that. Raises ``SegmentCorrupt``, ``FingerprintMismatch``, ``NoRoom``, ``OSError``.
        """
        path = segment_path(self._folder, key)
        name = f"{key} {threading.get_ident()}"
        with self._room_for(f"{name} received") as space, received(path, content, digest, space) as incoming:
            entry = Entry.of_files([incoming])
            there = entry.labels | {part.label for part in entry.parts if part.label is not None}
            if entry.key != key or entry.root is None or not there <= labels.keys():
                raise SegmentCorrupt(f"{path.name}: not this page, or not of these memories")
            with self._taking:  # else the file would have the labels of one bundle, and the index another's
                if self.tier_of(key) is None:
                    with self._room_for(name) as room:
                        rewrite_labels(incoming, path, fingerprint, labels, certificate, fsync=self._fsync, room=room)
                        return self.record(Entry.of_files([path]))
            read_segment(incoming, fingerprint)  # its digest was checked as it came
        return self._label(replace(entry, labels=frozenset(labels[label] for label in entry.labels)))

    @contextmanager
    def _room_for(self, name: str, entering: Entry | None = None) -> Iterator[Room]:
        """Makes room on disk for a file, which is promised to it while the block runs."""

        def room(nbytes: int) -> None:
            with self._lock:
                self.disk.promise(name, nbytes, entering=entering)

        try:
            yield room
        finally:
            with self._lock:
                self.disk.settle(name)

    def _label(self, entry: Entry) -> bool:
        """Have the same segment, known already, go with these memories as well."""
        with self._lock:
            if self._refuses(entry) or self._index.get(entry.key) is None:
                return False
            self._index.add(entry)
            return True

    def certify(self, key: str, certificate: Certificate) -> bool:
        """Enter the certificate of a page that is stored already. False when it is gone meanwhile.

        The index has it; the file, which is never written to, does not: a rebuilt index composes the page no more
        until it is certified again.
        """
        with self._lock:
            if self._index.get(key) is None:
                return False
            self._index.set_certificate(key, certificate)
            return True

    def touch(self, key: str, tier: TierName) -> None:
        """Count a use of a segment that another process has loaded from ``tier``."""
        with self._lock:
            self._hits[tier] += 1
            self._ledger.used(key)
            if self._index.get(key) is not None:
                self._index.touch(key)

    def _refuses(self, entry: Entry) -> bool:
        orphan = entry.root is None and entry.start > 0 and self._index.get(entry.parent) is None
        return orphan or any(label in self._dead_labels for label in entry.labels)

    def persist(self, keys: Iterable[str]) -> None:
        """Write those of the segments that are held back, in the background, and what is held back of the chains before
        them. What the queue has no room for stays held back."""
        with self._lock:
            for key in keys:
                if key in self._held:
                    self._queue_chain(self._in_memory(key))

    def _in_memory(self, key: str) -> Segment:
        segment = self._on_device.peek(key) or self._on_host.peek(key)
        assert segment is not None, "what is held back is in memory"
        return segment

    def _queue_chain(self, segment: Segment) -> bool:
        """Queue a segment to be written, what is held back of the chain before it first: a child is of no use without
        its parent. False when the queue is full."""
        chain = [segment]
        while chain[-1].parent in self._held:
            chain.append(self._in_memory(chain[-1].parent))
        first = chain[-1]
        if first.root is None and first.start > 0 and self._index.get(first.parent) is None:
            self._held.difference_update(one.key for one in chain)  # behind a gap: no prompt can find it
            return True
        for one in reversed(chain):
            if not self._writes.offer(one):
                return False
            self._held.discard(one.key)
        return True

    def _write_or_drop(self, segment: Segment) -> None:
        if not self._queue_chain(segment):  # the disk is slower than the model: keep serving, from memory
            self._dropped_writes += 1
        self._held.discard(segment.key)

    def _write_held(self) -> None:
        """Queue all that is held back, as fast as it is written. Not under the lock, which the writer needs."""
        while True:
            with self._lock:
                if not self._held:
                    return
                self.persist(list(self._held))
            self._writes.join()

    def flush(self) -> None:
        """Wait until all that was put is on disk (or has failed and been counted)."""
        self._write_held()
        self._writes.join()
        with self._lock:
            self._index.save()

    def demote(self, tier: TierName) -> None:
        """Empty the tiers above ``tier``: everything unpinned goes to host memory, and is there, or is on disk only."""
        if tier == "disk":
            self._write_held()
        self._writes.join()
        with self._lock:
            popped = [self._on_device.pop(key) for key in self._unpinned(self._on_device)]
            if tier == "disk":
                popped += [self._on_host.pop(key) for key in self._unpinned(self._on_host)]
            segments = [segment for segment in popped if segment is not None]
            if tier == "host":
                self._admit_host(segments)
            else:
                self._leave_memory(segments)
            for entry in self._index:
                self._drop_if_nowhere(entry.key)
        self._moved()

    def free_device(self) -> int:
        """Give the device's memory back, but for what is pinned: it is in host memory then, or on disk only. The bytes
        that were freed."""
        with self._lock:
            segments = [self._on_device.pop(key) for key in self._unpinned(self._on_device)]
            freed = [segment for segment in segments if segment is not None]
            self._evictions["device"] += len(freed)
            self._admit_host(freed)
        self._moved()
        return sum(segment.nbytes for segment in freed)

    def reserve_device(self, nbytes: int | None) -> None:
        """Leave the device tier so many bytes at most, where that is less than its budget; None: all of its budget.
        What has to leave for that goes to host memory."""
        with self._lock:
            budget = self._device_bytes if nbytes is None else max(0, min(self._device_bytes, nbytes))
            if budget != self._on_device.budget:
                evicted = self._on_device.shrink(budget, self._is_pinned, self._rank)
                self._evictions["device"] += len(evicted)
                self._admit_host(evicted)

    def _moved(self) -> None:
        """Wait until what has left the device is in host memory."""
        if self._leaving is not None:
            self._leaving.join()

    def _unpinned(self, tier: MemoryTier) -> list[str]:
        return [entry.key for entry in self._index if entry.key in tier and not self._pins[entry.key]]

    def keep(self, key: str, pinned: bool = True) -> None:
        """Never evict the segment from disk, or let it be evicted again. Raises ``SegmentMissing``."""
        with self._lock:
            if self._index.get(key) is None:
                raise SegmentMissing(key)
            self._index.set_pinned(key, pinned)

    # -- removing --------------------------------------------------------------------------------------------

    def remove_label(self, label: str) -> list[str]:
        """Remove every segment that holds this memory's text, and all computed behind one, from every tier, whichever
        model it is of; also what is in quarantine.

        Segments with that label are refused from now on. Returns the keys of what was removed.
        """
        with self._lock:
            self._dead_labels[label] = None
            while len(self._dead_labels) > _MAX_DEAD_LABELS:
                self._dead_labels.popitem(last=False)
            self.disk.quarantine.remove_label(label)
            keys = self._index.with_descendants(self._index.with_label(label))
            for key in keys:
                self._remove(key)
            return keys

    def remove_chains(self, salt: str) -> list[str]:
        """Remove all chained segments of a tenant (see ``kvcache.root_key``), of every model, from every tier; also
        those behind a gap and in quarantine, of which nobody could say whose they are. Returns their keys."""
        with self._lock:
            models = {entry.fingerprint for entry in self._index}
            keys = [key for model in models for key in self._index.below(root_of(model, salt))]
            keys += self._index.unreachable()
            for key in keys:
                self._remove(key)
            self.disk.quarantine.remove_chained()
            return keys

    def sweep(self, keep_labels: set[str]) -> int:
        """Remove the segments of memories that are gone (a crash may have come between the two deletions)."""
        with self._lock:
            labels = self._index.labels() | self.disk.quarantine.labels()
            return sum(len(self.remove_label(label)) for label in labels - keep_labels)

    def collect_garbage(self) -> Garbage:
        """Remove what cannot be used: segments behind a gap in their chain, and the files in quarantine."""
        with self._lock:
            unreachable = self._index.unreachable()
            for key in unreachable:
                self._remove(key)
            return Garbage(len(unreachable), self.disk.quarantine.clear())

    def clear(self) -> int:
        """Remove all segments from every tier, and what is in quarantine."""
        with self._lock:
            keys = [entry.key for entry in self._index]
            for key in keys:
                self._remove(key)
            self.disk.quarantine.clear()
            return len(keys)

    # -- looking ---------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._index)

    def stats(self) -> StoreStats:
        with self._lock:
            on_disk = sum(entry.on_disk for entry in self._index)
            return StoreStats(
                hits={tier: self._hits[tier] for tier in TIERS},
                misses=self._misses,
                quarantined=self._quarantined,
                write_errors=self._write_errors,
                dropped_writes=self._dropped_writes,
                evictions={**{tier: self._evictions[tier] for tier in TIERS}, "disk": self.disk.evictions},
                bytes={
                    "device": self._on_device.nbytes,
                    "host": self._on_host.nbytes,
                    "disk": self.disk.segment_bytes,
                },
                budgets={
                    "device": self._on_device.budget,
                    "host": self._on_host.budget,
                    "disk": self.disk.budget,
                },
                segments={"device": len(self._on_device), "host": len(self._on_host), "disk": on_disk},
                preloads=self._ledger.stats,
                models=shares(self._index),
                in_quarantine=len(self.disk.quarantine),
                quarantine_bytes=self.disk.quarantine.nbytes,
                failed_ranks=self._ranking.failures,
            )

    def close(self) -> None:
        """Write what is held back, finish the background writes and close the index. Calling it twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._readers.shutdown(wait=True)
        self._write_held()
        self._writes.close()
        if self._leaving is not None:
            self._leaving.close()
        self._copies.settle()
        with self._lock:
            self._index.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _read(self, key: str, fingerprint: Fingerprint, stop: Callable[[], bool] | None = None) -> Segment:
        layout = fingerprint.layout
        whole = Shard.whole(layout.layers, layout.kv_heads)

        def read() -> Segment:
            return read_shard(self._folder, key, fingerprint, whole, allocate=self._allocate, stop=stop)

        return self._or_missing(key, read)

    def _or_missing(self, key: str, read: Callable[[], T]) -> T:
        """Read; what cannot be read is put out of the way. Raises ``SegmentMissing`` then."""
        try:
            return read()
        except FileNotFoundError:
            log.warning("segment %s has vanished from the disk", key[:12])
            self._lose_file(key)
        except (SegmentCorrupt, FingerprintMismatch) as error:
            log.warning("quarantined: %s", error)
            self.quarantine(key)
        except OSError as error:
            log.warning("segment %s cannot be read: %s", key[:12], error.strerror)
            self.quarantine(key)
        raise SegmentMissing(key)

    def quarantine(self, key: str) -> None:
        """Put a segment's files out of the way, to be looked at: they were found to be bad (or are missing)."""
        with self._lock:
            self._quarantined += 1
            self.disk.refuse(key)
            self._drop_if_nowhere(key)

    def _lose_file(self, key: str) -> None:
        with self._lock:
            self.disk.lost(key)
            self._drop_if_nowhere(key)

    def _admit(self, segment: Segment) -> None:
        evicted = self._on_device.put(segment, self._is_pinned, self._rank)
        self._evictions["device"] += len(evicted)
        self._admit_host(evicted)

    def _admit_host(self, segments: Sequence[Segment]) -> None:
        dropped = [out for segment in segments for out in self._on_host.put(segment, self._is_pinned, self._rank)]
        self._evictions["host"] += len(dropped)
        self._leave_memory(dropped)
        for segment in segments:
            kept = segment.key in self._on_host or segment.key in self._writes
            if self._leaving is not None and kept and segment.keys.device != CPU:
                self._leaving.offer(segment)

    def _move(self, segment: Segment) -> None:
        """Copy a segment that has left the device to host memory, where it is still wanted there."""
        with self._lock:
            if self._on_host.peek(segment.key) is not segment and self._writes.get(segment.key) is not segment:
                return
        there = self._to_host(segment)
        with self._lock:
            self._on_host.replace(segment, there)
            self._writes.replace(segment, there)

    def _leave_memory(self, segments: Sequence[Segment]) -> None:
        """See to segments that are in no memory tier any more: what was held back is written now."""
        for segment in sorted(segments, key=lambda segment: segment.start):  # parents before their children
            self._ledger.left(segment.key)
            if segment.key in self._held:
                self._write_or_drop(segment)
            self._drop_if_nowhere(segment.key)

    @property
    def _rank(self) -> Ranking | None:
        return self._ranking if self._ranking.is_asked else None

    def _is_pinned(self, key: str) -> bool:
        return self._pins[key] > 0

    def _drop_if_nowhere(self, key: str) -> None:
        entry = self._index.get(key)
        if entry is not None and not entry.on_disk and self.tier_of(key) is None:
            self._held.discard(key)
            self._index.forget(key)

    def _remove(self, key: str) -> None:
        """Take a segment out of every tier. The file goes first: a row without a file is only a miss."""
        entry = self._index.get(key)
        assert entry is not None
        self._on_device.pop(key)
        self._on_host.pop(key)
        self._ledger.left(key)
        self._held.discard(key)
        self._writes.discard(key)
        self.disk.delete(entry)
        self._index.forget(key)

    def _write_queued(self, segment: Segment) -> None:
        try:
            self._write(segment)
        except Exception:
            # The worker's edge: one bad write must not end all writing.
            log.exception("segment %s could not be written", segment.key[:12])
            with self._lock:
                self._write_errors += 1
        finally:
            with self._lock:
                self._writes.discard(segment.key)
                self._drop_if_nowhere(segment.key)

    def _write(self, segment: Segment) -> None:
        with self._lock:
            entry = self._index.get(segment.key)
            if entry is None or entry.on_disk:
                return
        there = self._to_host(segment)
        if there is not segment:
            with self._lock:
                self._on_host.replace(segment, there)
            segment = there
        path = segment_path(self._folder, segment.key)
        with self._room_for(segment.key, entry) as room:
            try:
                write_segment(path, segment, codec=self.codec_of(segment), fsync=self._fsync, room=room)
            except NoRoom:
                log.debug("segment %s is kept in memory only: what is on disk is worth more", segment.key[:12])
                with self._lock:
                    self._dropped_writes += 1
                return
            except OSError as error:
                log.warning("segment %s is kept in memory only: %s", segment.key[:12], error.strerror or error)
                with self._lock:
                    self._write_errors += 1
                return
            with self._lock:
                if self._index.get(segment.key) is None:  # deleted while it was being written
                    path.unlink(missing_ok=True)
                else:  # pages also come from bundles, and this one may have come meanwhile
                    self.disk.enter(segment.key)

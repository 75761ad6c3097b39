"""Segments on their way to disk: a bounded queue, the thread that works it off, and what is held back until later."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence

import torch

from kvcache.catalogue import Catalogue
from kvcache.copies import use_device
from kvcache.errors import NoRoom
from kvcache.segment import Segment
from kvcache.tiers import Tier

log = logging.getLogger(__name__)

_MAX_QUEUED_WRITES = 256
_MAX_QUEUED_BYTES = 2 << 30


class WriteQueue:
    """Holds what is to be written in memory, whatever the tiers evict, and hands it to ``write`` in another thread.

    Not thread-safe: the store holds its lock around everything but ``join`` and ``close``, and ``write`` calls
    :meth:`discard` under that lock once a segment is written (or has failed).
    """

    def __init__(self, write: Callable[[Segment], None], device: torch.device) -> None:
        self._write = write
        self._segments: dict[str, Segment] = {}
        self._queue: queue.Queue[str | None] = queue.Queue(_MAX_QUEUED_WRITES)
        self._device = device
        self._thread = threading.Thread(target=self._run, name="segment-writer", daemon=True)
        self._thread.start()

    def __contains__(self, key: str) -> bool:
        return key in self._segments

    def get(self, key: str) -> Segment | None:
        return self._segments.get(key)

    def offer(self, segment: Segment) -> bool:
        """Take a segment in. False when there is no room: the disk is slower than the model."""
        waiting = sum(queued.nbytes for queued in self._segments.values())
        if waiting and waiting + segment.nbytes > _MAX_QUEUED_BYTES:
            return False
        try:
            self._segments[segment.key] = segment  # first: the thread looks it up
            self._queue.put_nowait(segment.key)
        except queue.Full:
            del self._segments[segment.key]
            return False
        return True

    def replace(self, segment: Segment, by: Segment) -> None:
        """Write ``by``, the same segment in other memory, where ``segment`` waits for being written."""
        if self._segments.get(segment.key) is segment:
            self._segments[segment.key] = by

    def discard(self, key: str) -> None:
        """Hold the segment no longer."""
        self._segments.pop(key, None)

    def join(self) -> None:
        """Wait until all that was taken in has been written (or has failed)."""
        self._queue.join()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        use_device(self._device)
        while (key := self._queue.get()) is not None:
            segment = self._segments.get(key)
            if segment is not None:  # else it was discarded meanwhile
                self._write(segment)
            del segment  # it must not hold memory until the next one comes
            self._queue.task_done()
        self._queue.task_done()


class Writes:
    """Segments to be written to the tiers outside of memory: at once, or *held back* until it would leave memory.

    The catalogue's lock is held around everything but :meth:`write_held`, :meth:`join` and :meth:`close`.

    Parameters
    ----------
    tiers: where to; each segment is written to those that do not have it.
    in_memory: finds a segment of a memory tier.
    to_host: gives a segment with its tensors in host memory, by which it is replaced wherever it is held.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        tiers: Sequence[Tier],
        device: torch.device,
        *,
        in_memory: Callable[[str], Segment | None],
        to_host: Callable[[Segment], Segment],
    ) -> None:
        self._catalogue = catalogue
        self._lock = catalogue.lock
        self._tiers = tiers
        self._in_memory = in_memory
        self._to_host = to_host
        self._held: set[str] = set()
        self.queue = WriteQueue(self._write_queued, device)

    def hold_back(self, key: str) -> None:
        """Write the segment only when it would leave memory."""
        self._held.add(key)

    def is_held_back(self, key: str) -> bool:
        """Say whether the segment is in memory only, to be written when it would leave it."""
        return key in self._held

    def write(self, segment: Segment) -> None:
        """Have a segment written. Where the queue is full it is not: the disk is slower than the model, which goes on
        from memory."""
        if not self._queue_chain(segment):
            self._catalogue.counts.dropped_write()
        self._held.discard(segment.key)

    def persist(self, keys: Iterable[str]) -> None:
        """Have those of the segments written that are held back, and what is held back of the chains before them. What
        the queue has no room for stays held back."""
        for key in keys:
            if key in self._held:
                self._queue_chain(self._held_segment(key))

    def forget(self, key: str) -> None:
        """Write the segment no more."""
        self._held.discard(key)
        self.queue.discard(key)

    def write_held(self) -> None:
        """Queue all that is held back, as fast as it is written. Not under the lock, which the writer needs."""
        while True:
            with self._lock:
                if not self._held:
                    return
                self.persist(list(self._held))
            self.queue.join()

    def _held_segment(self, key: str) -> Segment:
        segment = self._in_memory(key)
        assert segment is not None, "what is held back is in memory"
        return segment

    def _queue_chain(self, segment: Segment) -> bool:
        """Queue a segment to be written, what is held back of the chain before it first: a child is of no use without
        its parent. False when the queue is full."""
        chain = [segment]
        while chain[-1].parent in self._held:
            chain.append(self._held_segment(chain[-1].parent))
        first = chain[-1]
        if first.root is None and first.start > 0 and self._catalogue.index.get(first.parent) is None:
            self._held.difference_update(one.key for one in chain)  # behind a gap: no prompt can find it
            return True
        for one in reversed(chain):
            if not self.queue.offer(one):
                return False
            self._held.discard(one.key)
        return True

    # -- in the writer's thread ------------------------------------------------------------------------------

    def _write_queued(self, segment: Segment) -> None:
        try:
            self._write(segment)
        except Exception:
            # The worker's edge: one bad write must not end all writing.
            log.exception("segment %s could not be written", segment.key[:12])
            self._catalogue.counts.failed_write()
        finally:
            with self._lock:
                self.queue.discard(segment.key)
                self._catalogue.drop_if_nowhere(segment.key)

    def _write(self, segment: Segment) -> None:
        with self._lock:
            known = self._catalogue.index.get(segment.key) is not None
            lacking = [tier for tier in self._tiers if known and not tier.has(segment.key)]
        if not lacking:
            return
        segment = self._to_host(segment)
        for tier in lacking:
            self._write_to(tier, segment)

    def _write_to(self, tier: Tier, segment: Segment) -> None:
        try:
            tier.write(segment)
        except NoRoom:
            log.debug("segment %s is kept in memory only: what is on disk is worth more", segment.key[:12])
            self._catalogue.counts.dropped_write()
        except OSError as error:
            log.warning("segment %s is kept in memory only: %s", segment.key[:12], error.strerror or error)
            self._catalogue.counts.failed_write()
        with self._lock:
            if self._catalogue.index.get(segment.key) is None:  # deleted while it was being written
                tier.remove(segment.key)

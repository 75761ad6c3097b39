"""Segments on their way to disk: a bounded queue, and the thread that works it off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import torch

from kvcache.copies import use_device
from kvcache.segment import Segment

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

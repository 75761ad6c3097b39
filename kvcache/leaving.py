"""Segments on their way from the device to host memory."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import torch

from kvcache.copies import use_device
from kvcache.segment import Segment

log = logging.getLogger(__name__)


class LeavingQueue:
    """Hands segments to ``move`` in a thread of its own, so that neither the engine nor the store's lock waits for a
    copy. Until it was moved, a segment is where it was: readers get its tensors on the device."""

    def __init__(self, move: Callable[[Segment], None], device: torch.device) -> None:
        self._move = move
        self._device = device
        self._lock = threading.Lock()
        self._nbytes = 0
        self._queue: queue.SimpleQueue[Segment | None] = queue.SimpleQueue()
        self._idle = threading.Condition(self._lock)
        self._waiting = 0
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="segment-mover", daemon=True)
        self._thread.start()

    @property
    def nbytes(self) -> int:
        """Bytes on the device that wait for being moved, or are being moved."""
        with self._lock:
            return self._nbytes

    def offer(self, segment: Segment) -> None:
        """Take a segment in."""
        with self._lock:
            self._nbytes += segment.nbytes
            self._waiting += 1
        self._queue.put(segment)

    def join(self) -> None:
        """Wait until all that was taken in has been moved. Not under a lock that ``move`` needs."""
        with self._idle:
            self._idle.wait_for(lambda: self._waiting == 0)

    def close(self) -> None:
        """Move what is left and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        use_device(self._device)
        while (segment := self._queue.get()) is not None:
            nbytes = segment.nbytes
            try:
                self._move(segment)
            except Exception:
                # The worker's edge: the segment stays where it is, and can be used there.
                log.exception("segment %s could not be moved to host memory", segment.key[:12])
                self.failures += 1
            del segment  # it must not hold memory of the device until the next one comes
            with self._idle:
                self._nbytes -= nbytes
                self._waiting -= 1
                self._idle.notify_all()

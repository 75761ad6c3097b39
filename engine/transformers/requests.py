"""The requests that are in the engine, by how far they have come."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import torch

from engine.errors import EngineError, OutOfDeviceMemory
from engine.transformers.device_memory import DeviceMemory
from engine.transformers.sequence import Group
from kvcache import TieredStore

log = logging.getLogger(__name__)


class Requests:
    """Requests wait, are loaded where a segment of theirs is on disk, and run. Changed by the engine's thread only.
    ``store`` has their segments, ``memory`` their keys and values."""

    def __init__(self, store: TieredStore, memory: DeviceMemory) -> None:
        self.store = store
        self.memory = memory
        self.waiting: deque[Group] = deque()
        self.loading: list[Group] = []
        self.running: list[Group] = []
        self.failures = 0

    def __bool__(self) -> bool:
        """Say whether there is any request."""
        return bool(self.running or self.waiting or self.loading)

    @property
    def admitted(self) -> int:
        """Count those that have left the queue."""
        return len(self.running) + len(self.loading)

    def release(self, group: Group) -> None:
        """End a request whose sink has heard all."""
        self.unpin(group)
        group.sink(None)

    def unpin(self, group: Group) -> None:
        """Let go of what is held for a request."""
        self.store.release(group.pinned)
        group.pinned.clear()
        self.memory.reserve(group, 0)

    def try_for(self, group: Group, work: Callable[[], None]) -> None:
        """Do what one request needs; where there is no memory for it, that one fails."""
        try:
            self.memory.retried(work)
        except torch.OutOfMemoryError:
            self.fail_for_memory(group)

    def fail_for_memory(self, group: Group) -> None:
        """End one request, so that the others have room."""
        log.error("the device's memory is short: a request of %d tokens fails", group.held_tokens)
        self.failures += 1
        if group in self.running:
            self.running.remove(group)
        group.aborted = True
        self.unpin(group)
        group.let_go()
        group.sink(OutOfDeviceMemory("The device has no memory left for this request. Try again later, or with less."))

    def fail_all(self, error: EngineError) -> None:
        for group in [*self.running, *self.loading, *self.waiting]:
            self.unpin(group)
            group.aborted = True
            group.sink(error)
        self.running.clear()
        self.waiting.clear()
        self.loading.clear()

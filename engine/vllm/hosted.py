"""The host tier of a worker, to which copies from a GPU may still be under way."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

import torch

from engine.vllm.streams import Event
from kvcache import Segment
from kvcache.arena import HostTier

log = logging.getLogger(__name__)


class Hosted:
    """A host tier, and which of its segments' bytes may still be on their way there."""

    def __init__(self, tier: HostTier) -> None:
        self.tier = tier
        self._lock = threading.Lock()
        self._copying: dict[str, Event] = {}

    def acquire(self, key: str) -> Segment | None:
        """Return a segment whose bytes are there, to be released after use."""
        segment = self.tier.acquire(key)
        with self._lock:
            copied = self._copying.get(key)
        if segment is not None and copied is not None:
            copied.synchronize()
        return segment

    def expect(self, key: str, copied: Event) -> None:
        """Have a segment's bytes waited for until ``copied``."""
        with self._lock:
            self._copying[key] = copied

    def settle(self, key: str, copied: Event) -> None:
        """Wait until a segment's bytes are there."""
        copied.synchronize()
        with self._lock:
            if self._copying.get(key) is copied:
                del self._copying[key]


def halves(buffer: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """View one run of bytes as keys and values of a shape."""
    keys, values = buffer.view(dtype).view(2, *shape)
    return keys, values


def use_all_cores() -> None:
    """Let this thread run anywhere: vLLM binds a CPU worker's threads to the model's cores, and it waits for a
    drive."""
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except (AttributeError, OSError):  # not on this system, or not allowed: then they share the model's cores
        log.debug("the connector's threads stay on the model's cores")

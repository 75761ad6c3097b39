"""The device's memory for keys and values: what requests set aside, and what is done where it is short."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from engine.base import GenerateRequest
from engine.errors import TooLargeForMemory
from engine.transformers.loading import LoadedModel
from engine.transformers.sequence import Group
from kvcache import TieredStore

log = logging.getLogger(__name__)
T = TypeVar("T")


class DeviceMemory:
    """Shares ``budget`` bytes (None: without a bound) between requests and the device tier, which has the rest."""

    def __init__(self, model: LoadedModel, store: TieredStore, budget: int | None) -> None:
        self._store = store
        self._device = model.device
        self._bytes_per_token = model.fingerprint.layout.bytes_per_token
        self._budget = budget
        self.reserved = 0
        self.times_short = 0

    def check(self, request: GenerateRequest) -> None:
        """Raise ``TooLargeForMemory`` for a request that would have to wait for ever."""
        needed = self.needed(request.prompt.n_tokens + request.n * request.sampling.max_tokens)
        if self._budget is not None and needed > self._budget:
            raise TooLargeForMemory(needed, self._budget)

    def needed(self, n_tokens: int) -> int:
        """Return the bytes of the keys and values of ``n_tokens`` tokens."""
        return n_tokens * self._bytes_per_token

    def has_room(self, nbytes: int) -> bool:
        """Say whether ``nbytes`` fit beside those of other requests."""
        return self._budget is None or self.reserved + nbytes <= self._budget

    def reserve(self, group: Group, nbytes: int) -> None:
        """Set memory aside for a request, in place of what was set aside for it before."""
        if self._budget is not None and nbytes != group.reserved:
            self.reserved += nbytes - group.reserved
            group.reserved = nbytes
            self._store.reserve_device(self._budget - self.reserved)

    def retried(self, work: Callable[[], T]) -> T:
        """Do ``work``; where the device's memory is too short for it, once more after segments were evicted."""
        try:
            return work()
        except torch.OutOfMemoryError as error:
            log.warning("the device's memory is short: %s", error)
        # Not in the handler above: the error holds on to what was allocated until it came.
        self.times_short += 1
        freed = self._store.free_device()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("%d bytes of segments have left the device; trying once more", freed)
        return work()

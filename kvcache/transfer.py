"""A segment's way between host memory and the device."""

from __future__ import annotations

from dataclasses import replace

import torch

from kvcache.arena import PinnedMemory
from kvcache.codecs import CODECS, CodecName
from kvcache.copies import Allocate, Copied, Copies
from kvcache.files.recycling import Recycler
from kvcache.segment import Segment

# Memory that is kept for the next segment to be read.
_SPARE_BYTES = 256 << 20
# Pinned beside the host tier's budget, for what is only on its way through host memory: at most this, and at most a
# quarter of the budget.
_STAGING_BYTES = 1 << 30


class Transfer:
    """Copies segments to and from one device, through host memory from ``allocate``. Thread-safe."""

    def __init__(self, device: torch.device, host_bytes: int) -> None:
        self._copies = Copies(device)
        self.allocate = _host_memory(device, host_bytes)

    def to_device(self, segment: Segment, *, wait: bool) -> tuple[Segment, Copied | None]:
        """Return the segment on the device, and its copy there (None where there was none to make), which is waited for
        with ``wait``. Raises ``torch.OutOfMemoryError``."""
        (keys, values), copied = self._copies.to_device((segment.keys, segment.values), wait=wait)
        return (segment if keys is segment.keys else replace(segment, keys=keys, values=values)), copied

    def to_host(self, segment: Segment) -> Segment:
        """Return the segment in host memory, all of its bytes there. Not under a lock: it waits for the device."""
        keys, values = self._copies.to_host((segment.keys, segment.values), self.allocate)
        return segment if keys is segment.keys else replace(segment, keys=keys, values=values)

    def as_read(self, segment: Segment, codec_name: CodecName) -> Segment:
        """Return the segment on the device with the numbers that reading its file would give."""
        codec = CODECS[codec_name]
        if codec.lossless:
            return segment
        there = self.to_host(segment)
        keys, values = torch.empty_like(there.keys), torch.empty_like(there.values)
        codec.decode(codec.encode(there.keys, there.values), keys, values)
        return self.to_device(replace(segment, keys=keys, values=values), wait=False)[0]

    def settle(self) -> None:
        """Wait for all copies."""
        self._copies.settle()


def _host_memory(device: torch.device, host_bytes: int) -> Allocate:
    if device.type != "cuda":
        return Recycler(_SPARE_BYTES).allocate
    return PinnedMemory(host_bytes + min(_STAGING_BYTES, host_bytes // 4), device).allocate

"""Define the settings of a segment store: each default, and the range that it may be set in, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kvcache.codecs import CodecName

_MOST_BYTES = 1e15


def _budget(default: int) -> int:
    budget: int = field(default=default, metadata={"range": (0, _MOST_BYTES)})
    return budget


@dataclass(frozen=True)
class StoreConfig:
    """Describe a segment store. Budgets are in bytes.

    ``folder`` holds the segment files. ``fsync``: flush each file to disk before it counts as stored. ``codec``: how
    pages are written; chained segments stay exact, whatever it says.
    """

    folder: Path
    device_bytes: int = _budget(2_000_000_000)
    host_bytes: int = _budget(4_000_000_000)
    disk_bytes: int = _budget(20_000_000_000)
    fsync: bool = True
    codec: CodecName = "none"

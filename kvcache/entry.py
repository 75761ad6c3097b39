"""The catalogue's entry of one segment."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kvcache.errors import SegmentCorrupt
from kvcache.files.folder import bytes_of_files
from kvcache.files.format import read_header
from kvcache.files.reader import read_parts
from kvcache.segment import Certificate, Part, Segment
from kvcache.tiers import TierName


@dataclass
class Entry:
    """One known segment. ``nbytes`` counts keys and values in memory, ``disk_bytes`` its files (0: there are none);
    ``protected`` ones are never evicted from disk; times are Unix seconds. ``labels``: see ``kvcache.Segment``; also of
    what stood before it and has no file (any more)."""

    key: str
    parent: str
    fingerprint: str
    start: int
    n_tokens: int
    nbytes: int
    labels: frozenset[str]
    created_at: float
    last_used_at: float
    uses: int = 0
    disk_bytes: int = 0
    root: str | None = None
    parts: tuple[Part, ...] = ()
    certificate: Certificate | None = None
    protected: bool = False
    dirty: bool = field(default=False, repr=False)

    @property
    def on_disk(self) -> bool:
        return self.disk_bytes > 0

    def bytes_in(self, tier: TierName | None) -> int:
        """Return the bytes that are read to bring the segment here from that tier."""
        return self.disk_bytes if tier == "disk" else self.nbytes

    @property
    def kind(self) -> Literal["chained", "standalone"]:
        return "chained" if self.root is None else "standalone"

    @classmethod
    def of(cls, segment: Segment) -> Entry:
        """Make the entry of a segment that is new to the catalogue."""
        now = time.time()
        return cls(
            key=segment.key,
            parent=segment.parent,
            fingerprint=segment.fingerprint,
            start=segment.start,
            n_tokens=segment.n_tokens,
            nbytes=segment.nbytes,
            labels=segment.labels,
            created_at=now,
            last_used_at=now,
            root=segment.root,
            parts=segment.parts,
            certificate=segment.certificate,
        )

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> Entry:
        """Make the entry of a segment from its files. Raises ``SegmentCorrupt``, or ``FileNotFoundError``."""
        headers = [read_header(path) for path in paths]
        header = headers[0]
        if any(other.key != header.key or other.fingerprint != header.fingerprint for other in headers):
            raise SegmentCorrupt(f"{paths[0].name} and others are shards of different segments")
        now = time.time()
        return cls(
            key=header.key,
            parent=header.parent,
            fingerprint=header.fingerprint,
            start=header.start,
            n_tokens=header.n_tokens,
            nbytes=sum(2 * math.prod(each.shape) * each.dtype.itemsize for each in headers),
            labels=header.labels,
            created_at=now,
            last_used_at=now,
            disk_bytes=bytes_of_files(paths),
            root=header.root,
            parts=read_parts(paths[0], header),
            certificate=header.certificate,
        )

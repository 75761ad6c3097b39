"""Segment files that leave a store, and those that come from another one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvcache import hashing
from kvcache.copies import fresh_memory
from kvcache.errors import SegmentCorrupt
from kvcache.files.format import bytes_of
from kvcache.files.reader import SegmentReader
from kvcache.files.writer import Room
from kvcache.fingerprint import Fingerprint


@dataclass(frozen=True)
class SegmentFile:
    """All of a checked segment file: the labels that stand in it, its bytes, and ``digest``, the hash over them."""

    labels: frozenset[str]
    content: tuple[bytes | memoryview, ...]
    digest: str

    @property
    def nbytes(self) -> int:
        return sum(len(part) for part in self.content)


def read_file(path: Path, fingerprint: Fingerprint) -> SegmentFile:
    """Read and check a file. Raises as ``read_segment``."""
    with SegmentReader(path, fingerprint) as reader:
        reader.fill(fresh_memory(reader.buffer_bytes))
        reader.finish()
        content = (reader.front(), bytes_of(reader.data))
    hasher = hashing.hasher(threads=True)
    for part in content:
        hasher.update(part)
    return SegmentFile(reader.header.labels, content, str(hasher.hexdigest()))


@contextmanager
def received(path: Path, content: Iterable[bytes], digest: str, room: Room) -> Iterator[Path]:
    """A file beside ``path`` with this content, while the block runs. Opening a store removes what a crash has left of
    it. Raises ``SegmentCorrupt`` when ``digest`` is not its hash, ``OSError``, and as ``room`` does."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    incoming = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}-received.tmp")
    hasher = hashing.hasher()
    try:
        with incoming.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            for part in content:
                hasher.update(part)
                room(stream.tell() + len(part))
                stream.write(part)
        if hasher.hexdigest() != digest:
            raise SegmentCorrupt(f"{path.name}: not the file that was announced")
        yield incoming
    finally:
        incoming.unlink(missing_ok=True)

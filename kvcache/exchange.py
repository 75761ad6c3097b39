"""Segment files that leave a catalogue, and those that come from another one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kvcache import hashing
from kvcache.catalogue import Catalogue
from kvcache.copies import fresh_memory
from kvcache.entry import Entry
from kvcache.errors import SegmentCorrupt, SegmentMissing
from kvcache.files.format import bytes_of
from kvcache.files.reader import SegmentReader, read_segment
from kvcache.files.writer import Room, rewrite_labels
from kvcache.fingerprint import Fingerprint
from kvcache.segment import Certificate


@dataclass(frozen=True)
class SegmentFile:
    """All of a checked segment file: the labels that stand in it, its bytes, and ``digest``, the hash over them."""

    labels: frozenset[str]
    content: tuple[bytes | memoryview, ...]
    digest: str

    @property
    def nbytes(self) -> int:
        return sum(len(part) for part in self.content)


class Exchange:
    """Gives out a catalogue's segment files, and takes in pages that another one has given out. Thread-safe."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._folder, self._disk = catalogue.folder, catalogue.disk

    def read_file(self, key: str, fingerprint: Fingerprint) -> SegmentFile:
        """Return a segment's file as it is on disk, checked. Raises ``SegmentMissing``: there is none, it is in shards,
        or it was bad and is now in quarantine."""
        path = self._folder.path_of(key)
        if self._catalogue.tier_of(key, fingerprint) is None or not path.exists():
            raise SegmentMissing(key)
        try:
            return self._disk.checked(key, lambda: _read(path, fingerprint))
        except SegmentMissing:
            self._catalogue.drop_if_nowhere(key)
            raise

    def take_in(
        self,
        key: str,
        content: Iterable[bytes],
        digest: str,
        fingerprint: Fingerprint,
        labels: Mapping[str, str],
        certificate: Certificate,
    ) -> bool:
        """Keep the page that another store's :meth:`read_file` gave, with its labels replaced as ``labels`` says and
        this certificate. It is on disk then, and counts against the disk's budget as what is built here does.

        False when it is refused: its memory was deleted meanwhile. Nothing is made of ``content`` unless ``digest`` is
        its hash: whoever calls answers for that. Raises ``SegmentCorrupt``, ``FingerprintMismatch``, ``NoRoom``,
        ``OSError``, ``StoreClosed``.
        """
        path = self._folder.path_of(key)
        name = f"{key} {threading.get_ident()}"
        fsync = self._disk.options.fsync
        with self._disk.room_for(f"{name} received") as space, _received(path, content, digest, space) as incoming:
            entry = Entry.of_files([incoming])
            there = entry.labels | {part.label for part in entry.parts if part.label is not None}
            if entry.key != key or entry.root is None or not there <= labels.keys():
                raise SegmentCorrupt(f"{path.name}: not this page, or not of these memories")
            # Else the file would have the labels of one bundle, and the index another's.
            with self._catalogue.taking_in:
                if self._catalogue.tier_of(key) is None:
                    with self._disk.room_for(name) as room:
                        rewrite_labels(incoming, path, fingerprint, labels, certificate, fsync=fsync, room=room)
                        return self._catalogue.record(Entry.of_files([path]))
            read_segment(incoming, fingerprint)  # its digest was checked as it came
        renamed = replace(entry, labels=frozenset(labels[label] for label in entry.labels), disk_bytes=0)
        with self._catalogue.lock:
            return self._catalogue.tier_of(key) is not None and self._catalogue.enter(renamed)


def _read(path: Path, fingerprint: Fingerprint) -> SegmentFile:
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
def _received(path: Path, content: Iterable[bytes], digest: str, room: Room) -> Iterator[Path]:
    """Write a file beside ``path`` with this content, for as long as the block runs. Opening a store removes what a
    crash has left of it. Raises ``SegmentCorrupt`` when ``digest`` is not its hash, ``OSError``, and as ``room``."""
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

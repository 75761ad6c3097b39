"""Segment files below one folder: where they lie, what their names say, and segments from whichever files hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kvcache.copies import Allocate, fresh_memory
from kvcache.errors import SegmentCorrupt
from kvcache.files.format import SUFFIX
from kvcache.files.reader import read_segment
from kvcache.files.shards import shard_of_file
from kvcache.fingerprint import Fingerprint
from kvcache.segment import Segment, joined
from kvcache.shard import Shard


class SegmentFolder:
    """A folder of segments, each one file or some shards, in 256 sub-folders, so that each one stays small."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def path_of(self, key: str, shard: Shard | None = None) -> Path:
        """Return the place of the segment ``key``, or of a shard of it. Nothing need be there."""
        return self.path / key[:2] / (f"{key}{SUFFIX}" if shard is None else f"{key}.{shard.name}{SUFFIX}")

    def paths(self, key: str) -> list[Path]:
        """List a segment's files that are there, shards included, whether or not they are all that it needs."""
        return list(self.path_of(key).parent.glob(f"{key}*{SUFFIX}"))

    def shards(self, key: str) -> list[Path]:
        """List the files that hold a shard of the segment, in the order of their names."""
        return sorted(self.path_of(key).parent.glob(f"{key}.*{SUFFIX}"))

    def files(self) -> Iterator[Path]:
        """Walk over all segment files, those in quarantine left out."""
        for sub in sorted(self.path.glob("[0-9a-f][0-9a-f]")):
            yield from sorted(sub.glob(f"*{SUFFIX}"))

    def file_of(self, key: str, wanted: Shard) -> Path | None:
        """Find the file that has just these layers and heads. None: there is no such file."""
        path = self.path_of(key, None if wanted.is_whole else wanted)
        return path if path.exists() else None

    def read(
        self,
        key: str,
        fingerprint: Fingerprint,
        wanted: Shard,
        *,
        allocate: Allocate = fresh_memory,
        stop: Callable[[], bool] | None = None,
    ) -> Segment:
        """Read the wanted layers and heads of a segment into host memory from ``allocate``; what has to be joined from
        shards, into memory of its own and without asking ``stop``.

        Reads the file that has just these; else the one that has all; else the shards that overlap. A file is always
        read and checked whole. Raises ``FileNotFoundError`` when they are not all there, and as ``read_segment`` does.
        """
        own = self.file_of(key, wanted)
        if own is not None:
            shard = None if wanted.is_whole else wanted
            return _checked(read_segment(own, fingerprint, allocate=allocate, stop=stop), key, shard)
        whole = self.path_of(key)
        if whole.exists() or (wanted.is_whole and not self.shards(key)):
            segment = _checked(read_segment(whole, fingerprint, allocate=allocate, stop=stop), key, None)
            return segment if wanted.is_whole else segment.cut(wanted)
        return self._joined(key, fingerprint, wanted)

    def _joined(self, key: str, fingerprint: Fingerprint, wanted: Shard) -> Segment:
        try:
            held = [(path, shard_of_file(path)) for path in self.shards(key)]
            needed = [(path, shard) for path, shard in held if shard is not None and shard.overlap(wanted) is not None]
            if not needed:
                raise FileNotFoundError(f"no shard of segment {key[:12]} is there")
            return joined([_checked(read_segment(path, fingerprint), key, shard) for path, shard in needed], wanted)
        except ValueError as error:  # of another shape, overlapping, or not all there
            raise FileNotFoundError(f"segment {key[:12]} is not all there: {error}") from error

    def remove(self, key: str) -> None:
        """Remove a segment's files, all shards included."""
        for path in self.paths(key):
            path.unlink(missing_ok=True)


def _checked(segment: Segment, key: str, shard: Shard | None) -> Segment:
    if segment.key != key or segment.shard != shard:
        raise SegmentCorrupt(f"the file of {key[:12]} holds another segment")
    return segment


def key_of_file(path: Path) -> str:
    """Return the key that a segment file's name says."""
    return path.name.partition(".")[0]


def bytes_of_files(paths: Iterable[Path]) -> int:
    """Count what files take on disk. One that has vanished takes nothing."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total

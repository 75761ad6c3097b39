"""Segments from whichever files hold them: one, or shards of any cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kvcache.copies import Allocate, fresh_memory
from kvcache.errors import SegmentCorrupt
from kvcache.files.format import SUFFIX
from kvcache.files.paths import segment_path, shard_of_file
from kvcache.files.reader import read_segment
from kvcache.fingerprint import Fingerprint
from kvcache.segment import Segment, joined
from kvcache.shard import Shard


def read_shard(
    folder: Path,
    key: str,
    fingerprint: Fingerprint,
    wanted: Shard,
    *,
    allocate: Allocate = fresh_memory,
    stop: Callable[[], bool] | None = None,
) -> Segment:
    """The wanted layers and heads of a stored segment, in host memory from ``allocate``; what has to be joined from
    shards, in memory of its own and without asking ``stop``.

    Reads the file that has just these; else the one that has all; else the shards that overlap. A file is always
    read and checked whole. Raises ``FileNotFoundError`` when they are not all there, and as ``read_segment`` does.
    """
    own = file_of_shard(folder, key, wanted)
    if own is not None:
        return _checked(
            read_segment(own, fingerprint, allocate=allocate, stop=stop), key, None if wanted.is_whole else wanted
        )
    whole = segment_path(folder, key)
    if whole.exists() or (wanted.is_whole and not any(whole.parent.glob(f"{key}.*{SUFFIX}"))):
        segment = _checked(read_segment(whole, fingerprint, allocate=allocate, stop=stop), key, None)
        return segment if wanted.is_whole else segment.cut(wanted)
    return _joined(folder, key, fingerprint, wanted)


def file_of_shard(folder: Path, key: str, wanted: Shard) -> Path | None:
    """The file that has just these layers and heads, where there is one."""
    path = segment_path(folder, key, None if wanted.is_whole else wanted)
    return path if path.exists() else None


def _joined(folder: Path, key: str, fingerprint: Fingerprint, wanted: Shard) -> Segment:
    paths = sorted(segment_path(folder, key).parent.glob(f"{key}.*{SUFFIX}"))
    try:
        held = [(path, shard_of_file(path)) for path in paths]
        needed = [(path, shard) for path, shard in held if shard is not None and shard.overlap(wanted) is not None]
        if not needed:
            raise FileNotFoundError(f"no shard of segment {key[:12]} is there")
        return joined([_checked(read_segment(path, fingerprint), key, shard) for path, shard in needed], wanted)
    except ValueError as error:  # of another shape, overlapping, or not all there
        raise FileNotFoundError(f"segment {key[:12]} is not all there: {error}") from error


def _checked(segment: Segment, key: str, shard: Shard | None) -> Segment:
    if segment.key != key or segment.shard != shard:
        raise SegmentCorrupt(f"the file of {key[:12]} holds another segment")
    return segment

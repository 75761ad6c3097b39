"""Where a segment's files lie, and what their names say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kvcache.files.format import SUFFIX
from kvcache.shard import Shard, complete


def segment_path(folder: Path, key: str, shard: Shard | None = None) -> Path:
    """Give the place of the segment ``key`` (or a shard of it) below ``folder``: 256 sub-folders keep each one
    small."""
    return folder / key[:2] / (f"{key}{SUFFIX}" if shard is None else f"{key}.{shard.name}{SUFFIX}")


def key_of_file(path: Path) -> str:
    """The key that a segment file's name says."""
    return path.name.partition(".")[0]


def shard_of_file(path: Path) -> Shard | None:
    """The shard that a segment file's name says; None for a whole segment. Raises ``ValueError``."""
    name = path.name.removesuffix(SUFFIX).partition(".")[2]
    return Shard.parse(name) if name else None


def files_of(folder: Path, key: str) -> list[Path]:
    """The files of one segment: one, or its shards; empty where they are not all there."""
    whole = segment_path(folder, key)
    if whole.exists():
        return [whole]
    return all_there(sorted(whole.parent.glob(f"{key}.*{SUFFIX}")))


def all_there(paths: list[Path]) -> list[Path]:
    """``paths`` of one segment when they are all that a segment needs, by their names; else none."""
    try:
        shards = [shard_of_file(path) for path in paths]
    except ValueError:
        return []
    for path, shard in zip(paths, shards, strict=True):
        if shard is None:
            return [path]
    return paths if complete([shard for shard in shards if shard is not None]) else []


def paths_of(folder: Path, key: str) -> list[Path]:
    """A segment's files that are there, all shards included, whether or not they are all that it needs."""
    return list(segment_path(folder, key).parent.glob(f"{key}*{SUFFIX}"))


def bytes_of_files(paths: Iterable[Path]) -> int:
    """Count what they take on disk. One that has vanished takes nothing."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def remove_files(folder: Path, key: str) -> None:
    """Remove a segment's files, all shards included."""
    for path in paths_of(folder, key):
        path.unlink(missing_ok=True)


def segment_files(folder: Path) -> Iterator[Path]:
    """All segment files below ``folder`` (not those in quarantine)."""
    for sub in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        yield from sorted(sub.glob(f"*{SUFFIX}"))

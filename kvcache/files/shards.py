"""Shards of one segment as files: which there are by their names, whether they are all, and joining them."""

from __future__ import annotations

from pathlib import Path

from kvcache.files.format import SUFFIX
from kvcache.shard import Shard, complete


def shard_of_file(path: Path) -> Shard | None:
    """Return the shard that a segment file's name says; None for a whole segment. Raises ``ValueError``."""
    name = path.name.removesuffix(SUFFIX).partition(".")[2]
    return Shard.parse(name) if name else None


def all_there(paths: list[Path]) -> list[Path]:
    """Return ``paths`` of one segment where they are all that a segment needs, by their names; else none."""
    try:
        shards = [shard_of_file(path) for path in paths]
    except ValueError:
        return []
    for path, shard in zip(paths, shards, strict=True):
        if shard is None:
            return [path]
    return paths if complete([shard for shard in shards if shard is not None]) else []

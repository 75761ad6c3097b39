"""Checks of a segment folder that no server has open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvcache.errors import SegmentCorrupt
from kvcache.file import read_segment
from kvcache.index import Entry, Index, segment_files


@dataclass(frozen=True)
class BadFile:
    """A file that would be refused, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What was read: number of files, their bytes, and the bad ones."""

    checked: int
    bytes: int
    bad: list[BadFile]


def verify_folder(folder: Path) -> VerifyReport:
    """Read every segment file and check header, key and checksum. Nothing is changed."""
    checked = total = 0
    bad: list[BadFile] = []
    for path in segment_files(folder):
        checked += 1
        total += path.stat().st_size
        try:
            segment = read_segment(path)
        except SegmentCorrupt as error:
            bad.append(BadFile(path, str(error)))
        else:
            if segment.key != path.stem:
                bad.append(BadFile(path, "the file's name is not the key of what it holds"))
    return VerifyReport(checked, total, bad)


def list_folder(folder: Path) -> list[Entry]:
    """The entries of a segment folder's index, in order of creation."""
    if not (folder / "index.sqlite").exists():
        return []
    index = Index(folder)
    try:
        return sorted(index, key=lambda entry: (entry.created_at, entry.start))
    finally:
        index.close()

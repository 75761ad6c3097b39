"""Checks of a segment folder that no server has open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kvcache.entry import Entry
from kvcache.errors import KVCacheError, SegmentCorrupt
from kvcache.files.folder import SegmentFolder, key_of_file
from kvcache.files.reader import read_segment
from kvcache.mirror import read_rows


@dataclass(frozen=True)
class BadFile:
    """A file that would be refused, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of a check: number of files, their bytes, and the bad ones."""

    checked: int
    bytes: int
    bad: list[BadFile]


def verify_folder(folder: Path) -> VerifyReport:
    """Read every segment file and check header, key and checksum. Nothing is changed."""
    checked = total = 0
    bad: list[BadFile] = []
    for path in SegmentFolder(folder).files():
        try:
            total += path.stat().st_size
            checked += 1
            segment = read_segment(path)
        except FileNotFoundError:  # a server at work in the folder has evicted it meanwhile
            continue
        except SegmentCorrupt as error:
            bad.append(BadFile(path, str(error)))
        else:
            if segment.key != key_of_file(path):
                bad.append(BadFile(path, "the file's name is not the key of what it holds"))
    return VerifyReport(checked, total, bad)


def list_folder(folder: Path) -> list[Entry]:
    """List the entries of a segment folder's index, in order of creation. Nothing is changed: a server may be at work
    in the folder. Raises ``KVCacheError`` when the index cannot be read."""
    path = folder / "index.sqlite"
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            entries = read_rows(db)
    except sqlite3.DatabaseError as error:
        raise KVCacheError(f"{path} cannot be read: {error}") from error
    return sorted(entries, key=lambda entry: (entry.created_at, entry.start))

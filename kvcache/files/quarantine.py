"""Files that were refused, kept for a while to be looked at.

Beside the files of each segment lies a note, ``KEY.json``: the memories whose text they depend on, whether they are of
a chain, since when they are here. So forgetting a memory finds them, also after a restart; files without a note that
can be read are removed. They count against the disk's budget, are the first to go when it is reached, and stay a week
at most.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvcache.files.format import SUFFIX

log = logging.getLogger(__name__)

FOLDER = "quarantine"
_MAX_AGE_S = 7 * 86_400.0


@dataclass(frozen=True)
class Refused:
    """The files of one segment and their note. ``labels``: of every memory that its numbers depend on; ``at``: Unix
    seconds."""

    key: str
    labels: tuple[str, ...]
    chained: bool
    at: float
    nbytes: int


class Quarantine:
    """Not thread-safe: the store holds a lock around it. Opening one removes what cannot be told of whom it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._held = {refused.key: refused for refused in list_quarantine(folder)}
        for path in self._folder.glob("*"):
            if _key_of(path) not in self._held:
                path.unlink(missing_ok=True)
        self.expire(time.time())

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        return sum(refused.nbytes for refused in self._held.values())

    def labels(self) -> set[str]:
        return {label for refused in self._held.values() for label in refused.labels}

    def take(self, key: str, paths: Sequence[Path], labels: Iterable[str], *, chained: bool) -> None:
        """Move a segment's files here. What cannot be moved is removed."""
        self.remove([key])
        note = self._folder / f"{key}.json"
        told = {"key": key, "labels": sorted(labels), "chained": chained, "at": time.time()}
        try:
            self._folder.mkdir(exist_ok=True, mode=0o700)
            note.write_text(json.dumps(told))
            for path in paths:
                path.rename(self._folder / path.name)
        except OSError as error:  # a full disk, most likely
            log.warning("segment %s is removed: it cannot be put into quarantine: %s", key[:12], error.strerror)
            for path in paths:
                path.unlink(missing_ok=True)
        refused = _read(note)
        if refused is None:
            self._remove_files(key)
        else:
            self._held[key] = refused

    def remove(self, keys: Iterable[str]) -> int:
        """Delete the files of these segments; how many of them were here."""
        gone = [key for key in keys if key in self._held]
        for key in gone:
            self._remove_files(key)
            del self._held[key]
        return len(gone)

    def remove_label(self, label: str) -> int:
        """Delete what depends on this memory's text; how many segments that was."""
        return self.remove([key for key, refused in self._held.items() if label in refused.labels])

    def remove_chained(self) -> int:
        """Delete what is of any chain; how many segments that was."""
        return self.remove([key for key, refused in self._held.items() if refused.chained])

    def remove_oldest(self) -> bool:
        """Delete the files of the segment that is here the longest. False when there is none."""
        return bool(self.remove(list(self._held)[:1]))

    def expire(self, now: float) -> None:
        """Delete what has been here too long."""
        self.remove([key for key, refused in self._held.items() if abs(now - refused.at) > _MAX_AGE_S])

    def clear(self) -> int:
        """Delete everything; how many segments that was."""
        return self.remove(list(self._held))

    def _remove_files(self, key: str) -> None:
        """Remove a segment's files, the note last: what a crash leaves is found by it."""
        for path in (*self._folder.glob(f"{key}*{SUFFIX}"), self._folder / f"{key}.json"):
            path.unlink(missing_ok=True)


def list_quarantine(folder: Path) -> list[Refused]:
    """List what is in quarantine below ``folder``, the oldest first. Nothing is changed."""
    found = [note for path in (folder / FOLDER).glob("*.json") if (note := _read(path)) is not None]
    return sorted(found, key=lambda refused: refused.at)


def _key_of(path: Path) -> str:
    return path.name.partition(".")[0]


def _read(path: Path) -> Refused | None:
    """Read what a note says, and how large it and its files are; None where it is none, or they are gone."""
    files = list(path.parent.glob(f"{path.stem}*{SUFFIX}"))
    try:
        told = json.loads(path.read_text())
        labels = tuple(str(label) for label in told["labels"])
        nbytes = sum(file.stat().st_size for file in (*files, path))
        note = Refused(str(told["key"]), labels, bool(told["chained"]), float(told["at"]), nbytes)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note if files and note.key == path.stem else None

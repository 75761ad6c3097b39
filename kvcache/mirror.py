"""The index on disk: ``index.sqlite`` beside the files, so that opening a store reads one small database and no segment
file. The database is a convenience, the files are the truth."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from kvcache.entry import Entry
from kvcache.errors import IndexUnwritable
from kvcache.segment import Certificate, Part

log = logging.getLogger(__name__)

_VERSION = 2
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS segments (
    key TEXT PRIMARY KEY, parent TEXT NOT NULL, fingerprint TEXT NOT NULL, start INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL, nbytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL, root TEXT,
    certificate TEXT, pinned INTEGER NOT NULL, created_at REAL NOT NULL, last_used_at REAL NOT NULL,
    uses INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS labels (
    key TEXT NOT NULL REFERENCES segments(key) ON DELETE CASCADE, label TEXT NOT NULL,
    PRIMARY KEY (key, label)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    key TEXT NOT NULL REFERENCES segments(key) ON DELETE CASCADE, begin INTEGER NOT NULL, part TEXT NOT NULL,
    n_tokens INTEGER NOT NULL, label TEXT, PRIMARY KEY (key, begin)
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""


class Mirror:
    """Rows of the segments that are on disk. Not thread-safe: the catalogue's lock is held around it."""

    def __init__(self, path: Path) -> None:
        """Open the database at ``path``; one that is damaged is replaced by an empty one."""
        self.is_new = not path.exists()
        """True where nothing is known of the files, because there was no database, or none that could be read."""
        self.entries: list[Entry] = []
        """The rows that stood in it when it was opened."""
        try:
            self._db = _connected(path)
            self.entries = read_rows(self._db)
        except sqlite3.DatabaseError as error:
            log.warning("the segment index is damaged (%s); it is rebuilt from the files", error)
            for damaged in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                damaged.unlink(missing_ok=True)
            self._db, self.is_new = _connected(path), True

    def write(self, entry: Entry) -> None:
        """Write a segment's row, in place of the one before. Raises ``IndexUnwritable``, as all that write here."""
        row = (
            entry.key,
            entry.parent,
            entry.fingerprint,
            entry.start,
            entry.n_tokens,
            entry.nbytes,
            entry.disk_bytes,
            entry.root,
            None if entry.certificate is None else json.dumps(asdict(entry.certificate)),
            entry.protected,
            entry.created_at,
            entry.last_used_at,
            entry.uses,
        )
        labels = [(entry.key, label) for label in entry.labels]
        parts = [(entry.key, part.begin, part.key, part.n_tokens, part.label) for part in entry.parts]
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            db.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?)", labels)
            db.executemany("INSERT OR IGNORE INTO parts VALUES (?, ?, ?, ?, ?)", parts)

    def add_labels(self, key: str, labels: Iterable[str]) -> None:
        """Add labels to a segment's row."""
        with self._writing() as db:
            db.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?)", [(key, label) for label in labels])

    def protect(self, key: str, on: bool) -> None:
        """Note whether the segment may be evicted."""
        with self._writing() as db:
            db.execute("UPDATE segments SET pinned = ? WHERE key = ?", (on, key))

    def remove(self, key: str) -> None:
        """Remove a segment's row."""
        with self._writing() as db:
            db.execute("DELETE FROM segments WHERE key = ?", (key,))

    def save_uses(self, entries: Sequence[Entry]) -> None:
        """Write how often, and when last, segments were used."""
        rows = [(entry.uses, entry.last_used_at, entry.key) for entry in entries]
        with self._writing() as db:
            db.executemany("UPDATE segments SET uses = ?, last_used_at = ? WHERE key = ?", rows)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing. Raises ``IndexUnwritable``."""
        try:
            self._db.execute("BEGIN")
            yield self._db
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise IndexUnwritable(f"the segment index cannot be written: {error}") from error

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        path.chmod(0o600)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != _VERSION and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise sqlite3.DatabaseError(f"version {version} is not {_VERSION}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA foreign_keys=ON")
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def read_rows(db: sqlite3.Connection) -> list[Entry]:
    """Return all entries of an index database."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for key, label in db.execute("SELECT key, label FROM labels"):
        labels[key].add(label)
    parts: defaultdict[str, list[Part]] = defaultdict(list)
    for key, *part in db.execute("SELECT key, part, begin, n_tokens, label FROM parts ORDER BY key, begin"):
        parts[key].append(Part(*part))
    rows = db.execute(
        "SELECT key, parent, fingerprint, start, n_tokens, nbytes, disk_bytes, root, certificate, pinned, "
        "created_at, last_used_at, uses FROM segments"
    )
    return [
        Entry(
            key=row[0],
            parent=row[1],
            fingerprint=row[2],
            start=row[3],
            n_tokens=row[4],
            nbytes=row[5],
            disk_bytes=row[6],
            root=row[7],
            certificate=None if row[8] is None else Certificate(**json.loads(row[8])),
            protected=bool(row[9]),
            created_at=row[10],
            last_used_at=row[11],
            uses=row[12],
            labels=frozenset(labels[row[0]]),
            parts=tuple(parts[row[0]]),
        )
        for row in rows
    ]

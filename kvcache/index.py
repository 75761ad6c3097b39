"""The catalogue of segments: which chains exist, whose text they hold, how much they are used.

It lives in memory; what is on disk is mirrored in ``index.sqlite`` beside the files, so that opening a store
reads one small database and no segment file. The database is a convenience, the files are the truth: without
it (or with a damaged one) the catalogue is rebuilt from the files' headers.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from kvcache.errors import SegmentCorrupt
from kvcache.files.folder import SegmentFolder, bytes_of_files, key_of_file
from kvcache.files.format import SUFFIX, read_header
from kvcache.files.reader import read_parts
from kvcache.files.shards import all_there
from kvcache.segment import Certificate, Part, Segment, chain_key
from kvcache.tiers import TierName

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


@dataclass
class Entry:
    """One known segment. ``nbytes`` counts keys and values in memory, ``disk_bytes`` its files (0: there are none);
    ``protected`` ones are never evicted from disk; times are Unix seconds. ``labels``: see ``kvcache.Segment``; also of
    what stood before it and has no file (any more)."""

    key: str
    parent: str
    fingerprint: str
    start: int
    n_tokens: int
    nbytes: int
    labels: frozenset[str]
    created_at: float
    last_used_at: float
    uses: int = 0
    disk_bytes: int = 0
    root: str | None = None
    parts: tuple[Part, ...] = ()
    certificate: Certificate | None = None
    protected: bool = False
    dirty: bool = field(default=False, repr=False)

    @property
    def on_disk(self) -> bool:
        return self.disk_bytes > 0

    def bytes_in(self, tier: TierName | None) -> int:
        """What is read to bring the segment here from that tier."""
        return self.disk_bytes if tier == "disk" else self.nbytes

    @property
    def kind(self) -> Literal["chained", "standalone"]:
        return "chained" if self.root is None else "standalone"

    @classmethod
    def of(cls, segment: Segment) -> Entry:
        """The entry of a segment that is new to the catalogue."""
        now = time.time()
        return cls(
            key=segment.key,
            parent=segment.parent,
            fingerprint=segment.fingerprint,
            start=segment.start,
            n_tokens=segment.n_tokens,
            nbytes=segment.nbytes,
            labels=segment.labels,
            created_at=now,
            last_used_at=now,
            root=segment.root,
            parts=segment.parts,
            certificate=segment.certificate,
        )

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> Entry:
        """The entry of a segment from its files. Raises ``SegmentCorrupt``, or ``FileNotFoundError``."""
        headers = [read_header(path) for path in paths]
        header = headers[0]
        if any(other.key != header.key or other.fingerprint != header.fingerprint for other in headers):
            raise SegmentCorrupt(f"{paths[0].name} and others are shards of different segments")
        now = time.time()
        return cls(
            key=header.key,
            parent=header.parent,
            fingerprint=header.fingerprint,
            start=header.start,
            n_tokens=header.n_tokens,
            nbytes=sum(2 * math.prod(each.shape) * each.dtype.itemsize for each in headers),
            labels=header.labels,
            created_at=now,
            last_used_at=now,
            disk_bytes=bytes_of_files(paths),
            root=header.root,
            parts=read_parts(paths[0], header),
            certificate=header.certificate,
        )


class Index:
    """In-memory catalogue with its mirror on disk. Not thread-safe: the store holds a lock around it."""

    def __init__(self, folder: SegmentFolder) -> None:
        self._folder = folder
        self._entries: dict[str, Entry] = {}
        self._children: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._by_label: defaultdict[str, set[str]] = defaultdict(set)
        self._by_part: defaultdict[str, dict[str, Part]] = defaultdict(dict)
        self._db = self._open_db(folder.path / "index.sqlite")

    def _open_db(self, path: Path) -> sqlite3.Connection:
        rebuild = not path.exists()
        try:
            db = self._connect(path)
            for entry in self.rows(db):
                self._insert(entry)
        except sqlite3.DatabaseError as error:
            log.warning("the segment index is damaged (%s); it is rebuilt from the files", error)
            for damaged in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                damaged.unlink(missing_ok=True)
            self._entries.clear()
            self._children.clear()
            self._by_label.clear()
            self._by_part.clear()
            db, rebuild = self._connect(path), True
        self._reconcile(db, rebuild=rebuild)
        return db

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
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

    @staticmethod
    def rows(db: sqlite3.Connection) -> list[Entry]:
        """All entries of an index database."""
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

    def _reconcile(self, db: sqlite3.Connection, *, rebuild: bool) -> None:
        """Make catalogue and folder agree, by names alone.

        A file without a row was cut off between rename and commit: with a sound database it is removed (its
        memory may have been deleted since), without one it is adopted.
        """
        files: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self._folder.files():
            files[key_of_file(path)].append(path)
        for path in self._folder.path.glob(f"[0-9a-f][0-9a-f]/.*{SUFFIX}.*.tmp"):
            path.unlink(missing_ok=True)
        there = {key for key, paths in files.items() if all_there(paths)}
        for key in [key for key in self._entries if key not in there]:
            self._forget(db, key)
        for key, entry in self._entries.items():
            entry.disk_bytes = bytes_of_files(files[key]) or entry.disk_bytes  # an empty file is there, and bad
        for key in files.keys() - self._entries.keys():
            if not (rebuild and key in there and self._adopted(db, key, all_there(files[key]))):
                self._folder.remove(key)
        for key in self.unreachable() if rebuild else ():  # of which memories, nobody could say any more
            self._folder.remove(key)
            self._forget(db, key)

    def _adopted(self, db: sqlite3.Connection, key: str, paths: list[Path]) -> bool:
        try:
            entry = Entry.of_files(paths)
        except SegmentCorrupt as error:
            log.warning("not adopted: %s", error)
            return False
        if entry.key != key:
            log.warning("not adopted: %s holds the segment %s", paths[0].name, entry.key)
            return False
        self._insert(entry)
        self._write_row(db, entry)
        return True

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def match(self, root: str, token_ids: Sequence[int]) -> list[Entry]:
        """The longest chain below ``root`` whose tokens begin ``token_ids``; empty where there is none."""
        chain: list[Entry] = []
        parent, done = root, 0
        while (entry := self._longest_child(parent, token_ids[done:])) is not None:
            chain.append(entry)
            parent, done = entry.key, done + entry.n_tokens
        return chain

    def _longest_child(self, parent: str, token_ids: Sequence[int]) -> Entry | None:
        lengths = self._children.get(parent)
        for length in sorted(lengths or (), reverse=True):
            if length <= len(token_ids):
                key = chain_key(parent, token_ids[:length])
                if key in self._entries:
                    return self._entries[key]
        return None

    def with_part(self, part_key: str) -> list[tuple[Entry, Part]]:
        """The pages that hold this part."""
        return [(self._entries[key], part) for key, part in self._by_part.get(part_key, {}).items()]

    def has_children(self, key: str) -> bool:
        return any(self._children.get(key, {}).values())

    def unreachable(self) -> list[str]:
        """Chained segments whose chain has a gap before them, so that no prompt can find them."""
        lost = [e for e in self._entries.values() if e.root is None and e.start > 0 and e.parent not in self._entries]
        return self.with_descendants(entry.key for entry in lost)

    def with_label(self, label: str) -> set[str]:
        return set(self._by_label.get(label, ()))

    def labels_behind(self, key: str) -> frozenset[str]:
        """The memories that a segment's numbers depend on: its own, and those of the chain before it."""
        found: frozenset[str] = frozenset()
        entry = self._entries.get(key)
        while entry is not None:
            found |= entry.labels
            entry = self._entries.get(entry.parent)
        return found

    def labels(self) -> set[str]:
        return {label for label, keys in self._by_label.items() if keys}

    def with_descendants(self, keys: Iterable[str]) -> list[str]:
        """``keys`` and all that was computed behind them, children before their parents."""
        found: dict[str, None] = {}
        stack = list(keys)
        while stack:
            key = stack.pop()
            if key not in found and key in self._entries:
                found[key] = None
                stack.extend(child for group in self._children.get(key, {}).values() for child in group)
        return sorted(found, key=lambda key: -self._entries[key].start)

    def below(self, root: str) -> list[str]:
        """All chained segments below ``root``, children before their parents."""
        return self.with_descendants(key for group in self._children.get(root, {}).values() for key in group)

    def add(self, entry: Entry) -> None:
        """Enter a segment that is in memory only, or update the labels of a known one."""
        known = self._entries.get(entry.key)
        if known is None:
            self._insert(entry)
            return
        if self._label(known, entry.labels) and known.on_disk:
            self._write_row(self._db, known)

    def _label(self, entry: Entry, labels: frozenset[str]) -> bool:
        """Add labels to an entry. False when it has them already."""
        added = labels - entry.labels
        entry.labels |= added
        for label in added:
            self._by_label[label].add(entry.key)
        return bool(added)

    def _pass_on(self, db: sqlite3.Connection, entry: Entry) -> None:
        """Let the segments behind one whose file is gone go with its memories: nothing else would tell of them."""
        for key in [key for group in self._children.get(entry.key, {}).values() for key in group]:
            child = self._entries[key]
            if self._label(child, entry.labels) and child.on_disk:
                db.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?)", [(key, label) for label in child.labels])

    def stored(self, key: str, disk_bytes: int) -> None:
        """The segment's file is on disk: make the row durable with it."""
        entry = self._entries[key]
        entry.disk_bytes = disk_bytes
        before = self._entries.get(entry.parent)
        while before is not None and not before.on_disk:
            self._label(entry, before.labels)
            before = self._entries.get(before.parent)
        self._write_row(self._db, entry)

    def touch(self, key: str) -> None:
        """Count a use; written out with :meth:`save`."""
        entry = self._entries[key]
        entry.uses += 1
        entry.last_used_at = time.time()
        entry.dirty = True

    def set_protected(self, key: str, protected: bool) -> None:
        """Keep the segment whatever its value, or let it be evicted again."""
        self._entries[key].protected = protected
        self._db.execute("UPDATE segments SET pinned = ? WHERE key = ?", (protected, key))

    def set_certificate(self, key: str, certificate: Certificate) -> None:
        """The page was certified after it was stored."""
        entry = self._entries[key]
        entry.certificate = certificate
        if entry.on_disk:
            self._write_row(self._db, entry)

    def lost_file(self, key: str) -> None:
        """The segment's file is gone; it may live on in memory."""
        entry = self._entries[key]
        entry.disk_bytes = 0
        self._pass_on(self._db, entry)
        self._db.execute("DELETE FROM segments WHERE key = ?", (key,))

    def forget(self, key: str) -> None:
        self._forget(self._db, key)

    def save(self) -> None:
        """Write the counted uses to disk."""
        dirty = [entry for entry in self._entries.values() if entry.dirty and entry.on_disk]
        self._db.execute("BEGIN")
        self._db.executemany(
            "UPDATE segments SET uses = ?, last_used_at = ? WHERE key = ?",
            [(entry.uses, entry.last_used_at, entry.key) for entry in dirty],
        )
        self._db.execute("COMMIT")
        for entry in dirty:
            entry.dirty = False

    def close(self) -> None:
        self.save()
        self._db.close()

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._children[entry.parent][entry.n_tokens].add(entry.key)
        for label in entry.labels:
            self._by_label[label].add(entry.key)
        for part in entry.parts:
            self._by_part[part.key][entry.key] = part

    def _forget(self, db: sqlite3.Connection, key: str) -> None:
        entry = self._entries.pop(key)
        self._pass_on(db, entry)
        siblings = self._children[entry.parent]
        siblings[entry.n_tokens].discard(key)
        if not siblings[entry.n_tokens]:
            del siblings[entry.n_tokens]
        if not siblings:
            del self._children[entry.parent]
        for part in entry.parts:
            self._by_part[part.key].pop(key, None)
            if not self._by_part[part.key]:
                del self._by_part[part.key]
        for label in entry.labels:
            self._by_label[label].discard(key)
            if not self._by_label[label]:
                del self._by_label[label]
        db.execute("DELETE FROM segments WHERE key = ?", (key,))

    @staticmethod
    def _write_row(db: sqlite3.Connection, entry: Entry) -> None:
        db.execute("BEGIN")
        db.execute(
            "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
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
            ),
        )
        db.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?)", [(entry.key, label) for label in entry.labels])
        rows = [(entry.key, part.begin, part.key, part.n_tokens, part.label) for part in entry.parts]
        db.executemany("INSERT OR IGNORE INTO parts VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("COMMIT")

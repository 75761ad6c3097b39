"""The memory store in one SQLite file: one connection, one lock."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memory.errors import InvalidMemory, StorageFull, StoreCorrupt
from memory.storage.sqlite.migrations import migrate
from memory.storage.sqlite.transaction import SqliteTransaction
from memory.storage.ticket import ticket

_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC}
# SQLite keeps 2 MB of pages by itself, less than one search over ten thousand memories reads.
_CACHE_KIB = 32 * 1024
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
    f"cache_size=-{_CACHE_KIB}",
)
# FTS5 overwrites deleted text by itself from this version on; before, the index has to be rebuilt for that.
_FTS_SECURE_DELETE = sqlite3.sqlite_version_info >= (3, 42, 0)


class _Connection(sqlite3.Connection):
    """Names what SQLite cannot take, half a surrogate pair or an integer of more than 64 bits: wherever such a value
    comes from, somebody asked for it. Both methods raise ``InvalidMemory``."""

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Run a statement."""
        try:
            return super().execute(sql, parameters)
        except (UnicodeEncodeError, OverflowError) as error:
            raise _refused(error) from error

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        """Run a statement for each of several rows of values."""
        try:
            return super().executemany(sql, parameters)
        except (UnicodeEncodeError, OverflowError) as error:
            raise _refused(error) from error


def _refused(error: UnicodeEncodeError | OverflowError) -> InvalidMemory:
    if isinstance(error, UnicodeEncodeError):
        return InvalidMemory("A text holds a lone surrogate, which can neither be stored nor be found.")
    return InvalidMemory("A number has more than 64 bits, and can neither be stored nor be found.")


class SqliteStorage:
    """Reads and transactions over a SQLite file; safe to use from any thread, one at a time.

    An acknowledged transaction is on disk (WAL, synchronous=FULL). One that a request with a key makes says so in that
    request's row, so that both are kept, or neither.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises ``StoreCorrupt``."""
        self.path = path
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None, timeout=10.0, factory=_Connection
        )
        try:
            self._db.row_factory = sqlite3.Row
            for pragma in _PRAGMAS:
                self._db.execute(f"PRAGMA {pragma}")
            self._db.create_function("unix_now", 0, time.time)
            self._db.create_function("casefold", 1, _folded, deterministic=True)
            os.chmod(path, 0o600)
            migrate(self._db)
        except (sqlite3.DatabaseError, StoreCorrupt) as error:
            self._db.close()
            raise StoreCorrupt(f"{path} cannot be opened: {error}") from error
        self._transaction = SqliteTransaction(self._db)

    @contextmanager
    def read(self) -> Iterator[SqliteTransaction]:
        """Begin to read. Raises ``StoreCorrupt`` when the file turns out to be damaged."""
        with self._lock:
            try:
                yield self._transaction
            except sqlite3.DatabaseError as error:
                raise self._named(error) from error

    @contextmanager
    def write(self) -> Iterator[SqliteTransaction]:
        """Begin a transaction: all of it is kept, or, on any exception, nothing. Raises ``StorageFull``,
        ``StoreCorrupt``."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._transaction
                    self._note_writing()
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._named(error) from error

    def _note_writing(self) -> None:
        now = ticket.get()
        if now is not None and now.storage is self:
            self._db.execute("UPDATE keyed_requests SET wrote = 1 WHERE seq = ?", (now.number,))

    def _named(self, error: sqlite3.DatabaseError) -> Exception:
        code = getattr(error, "sqlite_errorcode", None)
        if code in _NO_ROOM or code == sqlite3.SQLITE_IOERR:
            return StorageFull("the disk is full; nothing was written")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreCorrupt(f"{self.path} is damaged: {error}")
        return error

    def overwrite_deleted(self) -> None:
        """Rewrite the full-text index without what was deleted, and truncate the log that still holds it."""
        if not _FTS_SECURE_DELETE:
            with self.write() as tx:
                # Not 'optimize': each one adds a level, and FTS5 refuses an index of more than 2000.
                tx.db.execute("INSERT INTO memory_text (memory_text) VALUES ('rebuild')")
        with self.read() as tx:
            tx.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def check(self) -> None:
        """Read the whole file and check its structure. Raises ``StoreCorrupt``."""
        with self.read() as tx:
            (verdict,) = tx.db.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise StoreCorrupt(f"{self.path} is damaged: {verdict}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


def _folded(text: str | None) -> str | None:
    return None if text is None else text.casefold()

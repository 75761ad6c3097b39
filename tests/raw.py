"""The SQLite file below a memory store, for tests that look at rows or damage them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from memory import MemoryStore
from memory.storage.sqlite.database import SqliteStorage


def _storage(store: MemoryStore) -> SqliteStorage:
    assert isinstance(store.storage, SqliteStorage)
    return store.storage


@contextmanager
def reading(store: MemoryStore) -> Iterator[sqlite3.Connection]:
    with _storage(store).read() as tx:
        yield tx.db


@contextmanager
def writing(store: MemoryStore) -> Iterator[sqlite3.Connection]:
    with _storage(store).write() as tx:
        yield tx.db

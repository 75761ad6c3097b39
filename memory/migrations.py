"""The side store's schema, as a list of steps that are applied once each, in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from memory.errors import StoreCorrupt

Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: list[Migration] = []


def migration(step: Migration) -> Migration:
    """Add a step. Steps are never edited once released: later ones change what they made."""
    MIGRATIONS.append(step)
    return step


def migrate(db: sqlite3.Connection) -> None:
    """Bring the database to the newest schema, each step in a transaction of its own with its version.

    Raises ``StoreCorrupt`` when the database was written by a newer version.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreCorrupt(f"the database has schema {version}; this version knows up to {len(MIGRATIONS)}")
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            step(db)
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise


@migration
def _cubes_and_memories(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE cubes (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, created_at REAL NOT NULL,"
        " UNIQUE (tenant, name))"
    )
    db.execute(
        "CREATE TABLE memories (rowid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
        " cube_id TEXT NOT NULL REFERENCES cubes(id), owner TEXT, kind TEXT NOT NULL, text TEXT NOT NULL,"
        " status TEXT NOT NULL, pinned INTEGER NOT NULL, version INTEGER NOT NULL, created_at REAL NOT NULL,"
        " updated_at REAL NOT NULL, event_at REAL, metadata TEXT NOT NULL)"
    )
    db.execute("CREATE INDEX memories_by_cube ON memories (cube_id, status, created_at, id)")
    db.execute(
        "CREATE TABLE memory_versions (memory_id TEXT NOT NULL REFERENCES memories(id), version INTEGER NOT NULL,"
        " text TEXT NOT NULL, replaced_at REAL NOT NULL, PRIMARY KEY (memory_id, version)) WITHOUT ROWID"
    )


@migration
def _search(db: sqlite3.Connection) -> None:
    db.execute("CREATE VIRTUAL TABLE memory_text USING fts5(text, tokenize = 'porter unicode61')")
    if sqlite3.sqlite_version_info >= (3, 42, 0):  # deleted text is overwritten in the index, not just unlinked
        db.execute("INSERT INTO memory_text (memory_text, rank) VALUES ('secure-delete', 1)")
    db.execute(
        "CREATE TABLE vectors (memory_id TEXT PRIMARY KEY REFERENCES memories(id), embedder TEXT NOT NULL,"
        " vector BLOB NOT NULL) WITHOUT ROWID"
    )


@migration
def _keys(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE api_keys (hash TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,"
        " created_at REAL NOT NULL) WITHOUT ROWID"
    )


@migration
def _fidelity_of_cubes(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE cubes ADD COLUMN fidelity TEXT")

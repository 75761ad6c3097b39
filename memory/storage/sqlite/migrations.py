"""The side store's schema, as a list of steps that are applied once each, in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from memory.errors import StoreCorrupt
from memory.language.words import digest_of, searchable
from memory.storage.sqlite.infer import infer_ids

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


@migration
def _history_of_memories(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE memory_changes (seq INTEGER PRIMARY KEY, memory_id TEXT NOT NULL, at REAL NOT NULL,"
        " action TEXT NOT NULL, version INTEGER NOT NULL, text TEXT, detail TEXT NOT NULL)"
    )
    db.execute("CREATE INDEX changes_by_memory ON memory_changes (memory_id, seq)")
    db.execute(
        "INSERT INTO memory_changes (memory_id, at, action, version, text, detail)"
        " SELECT memory_id, replaced_at, 'updated', version + 1, text, '{}' FROM memory_versions"
        " ORDER BY memory_id, version"
    )
    db.execute("DROP TABLE memory_versions")


@migration
def _what_a_memory_is_about(db: sqlite3.Connection) -> None:
    for column in (
        "event_until REAL",
        "author TEXT",
        "agent TEXT",
        "session TEXT",
        "tags TEXT NOT NULL DEFAULT '[]'",
        "importance REAL NOT NULL DEFAULT 0.5",
        "expires_at REAL",
        "slot TEXT",
        "value TEXT",
        "valid_until REAL",
        "replaced_by TEXT",
        "uses INTEGER NOT NULL DEFAULT 1",
        "follows TEXT",
        "digest TEXT",
        "deleted_at REAL",
        "status_before TEXT",
    ):
        db.execute(f"ALTER TABLE memories ADD COLUMN {column}")
    db.execute("CREATE INDEX memories_by_digest ON memories (cube_id, digest)")
    db.execute("CREATE INDEX memories_by_slot ON memories (cube_id, slot) WHERE slot IS NOT NULL")
    db.execute("CREATE INDEX memories_by_author ON memories (cube_id, author) WHERE author IS NOT NULL")
    db.execute("CREATE INDEX memories_by_expiry ON memories (expires_at) WHERE expires_at IS NOT NULL")
    db.execute("CREATE INDEX memories_deleted ON memories (deleted_at) WHERE deleted_at IS NOT NULL")


@migration
def _messages(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE messages (rowid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
        " cube_id TEXT NOT NULL REFERENCES cubes(id), conversation TEXT, role TEXT NOT NULL, author TEXT,"
        " text TEXT NOT NULL, sent_at REAL NOT NULL, created_at REAL NOT NULL, metadata TEXT NOT NULL)"
    )
    db.execute("CREATE INDEX messages_by_conversation ON messages (cube_id, conversation, rowid)")
    db.execute(
        "CREATE TABLE provenance (memory_id TEXT NOT NULL, message_id TEXT NOT NULL,"
        " PRIMARY KEY (memory_id, message_id)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX provenance_by_message ON provenance (message_id)")


@migration
def _search_with_context(db: sqlite3.Connection) -> None:
    """Keep a search within cubes by the cube as a word of its own column; the context is what was said before."""
    db.execute("DROP TABLE memory_text")
    db.execute("CREATE VIRTUAL TABLE memory_text USING fts5(cube, text, context, tokenize = 'porter unicode61')")
    if sqlite3.sqlite_version_info >= (3, 42, 0):
        db.execute("INSERT INTO memory_text (memory_text, rank) VALUES ('secure-delete', 1)")
    db.execute(
        "INSERT INTO memory_text (rowid, cube, text, context)"
        " SELECT rowid, substr(cube_id, 6), text, '' FROM memories WHERE status = 'active'"
    )
    db.execute("DROP TABLE vectors")  # they are made anew where they are missing
    db.execute(
        "CREATE TABLE vectors (memory INTEGER PRIMARY KEY, embedder TEXT NOT NULL, vector BLOB NOT NULL,"
        " written_at REAL NOT NULL)"
    )
    # What is asked of all rows, without reading the vectors themselves.
    db.execute("CREATE INDEX vectors_written ON vectors (memory, embedder, written_at)")


@migration
def _entities(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE entities (id INTEGER PRIMARY KEY, cube_id TEXT NOT NULL, name TEXT NOT NULL)")
    db.execute("CREATE UNIQUE INDEX entities_by_name ON entities (cube_id, name)")
    db.execute(
        "CREATE TABLE mentions (entity INTEGER NOT NULL, memory INTEGER NOT NULL, PRIMARY KEY (entity, memory))"
        " WITHOUT ROWID"
    )
    db.execute("CREATE INDEX mentions_by_memory ON mentions (memory, entity)")


@migration
def _sharing(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE grants (cube_id TEXT NOT NULL REFERENCES cubes(id), principal TEXT NOT NULL,"
        " access TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (cube_id, principal)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX grants_by_principal ON grants (principal)")
    db.execute(
        "CREATE TABLE groups (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (tenant, name))"
        " WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE group_members (group_id TEXT NOT NULL REFERENCES groups(id), member TEXT NOT NULL,"
        " PRIMARY KEY (group_id, member)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX groups_of_member ON group_members (member)")


@migration
def _jobs(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE jobs (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, kind TEXT NOT NULL,"
        " payload TEXT NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL, created_at REAL NOT NULL,"
        " not_before REAL NOT NULL, lease_until REAL, finished_at REAL, result TEXT, error TEXT)"
    )
    db.execute("CREATE INDEX jobs_open ON jobs (status, seq) WHERE status IN ('waiting', 'running')")
    db.execute("CREATE INDEX jobs_by_tenant ON jobs (tenant, seq)")


@migration
def _feedback(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE feedback (id TEXT PRIMARY KEY, cube_id TEXT NOT NULL REFERENCES cubes(id), text TEXT NOT NULL,"
        " at REAL NOT NULL, actions TEXT NOT NULL) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE documents (id TEXT PRIMARY KEY, cube_id TEXT NOT NULL REFERENCES cubes(id), name TEXT NOT NULL,"
        " digest TEXT NOT NULL, n_chunks INTEGER NOT NULL, created_at REAL NOT NULL) WITHOUT ROWID"
    )
    db.execute("CREATE UNIQUE INDEX documents_by_name ON documents (cube_id, name)")


@migration
def _revisions(db: sqlite3.Connection) -> None:
    """Count every change, where a memory's version counts those of its text."""
    for table in ("memories", "cubes"):
        db.execute(f"ALTER TABLE {table} ADD COLUMN revision INTEGER NOT NULL DEFAULT 1")


@migration
def _keyed_requests(db: sqlite3.Connection) -> None:
    """Keep requests with a key: of both there are digests only. ``status`` is NULL until the request has been answered;
    ``body`` is NULL, too, when it must not be kept (``gone``, which may be known before it is there). ``quotes``: it
    may hold text of memories or messages. Then it goes with the first text of any cube that the request looked into
    that goes, whoever removes that and why: which is why triggers see to it."""
    db.execute(
        "CREATE TABLE keyed_requests (seq INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL,"
        " key TEXT NOT NULL, request TEXT NOT NULL, at REAL NOT NULL, quotes INTEGER NOT NULL,"
        " wrote INTEGER NOT NULL DEFAULT 0, gone INTEGER NOT NULL DEFAULT 0, status INTEGER, headers TEXT, body BLOB,"
        " nbytes INTEGER NOT NULL DEFAULT 0, UNIQUE (tenant, key))"
    )
    db.execute("CREATE INDEX keyed_requests_by_age ON keyed_requests (at)")
    db.execute("CREATE INDEX keyed_requests_sizes ON keyed_requests (tenant, seq, nbytes)")
    db.execute("CREATE INDEX keyed_requests_open ON keyed_requests (seq) WHERE status IS NULL")
    db.execute(
        "CREATE TABLE keyed_request_cubes (cube_id TEXT NOT NULL, request INTEGER NOT NULL,"
        " PRIMARY KEY (cube_id, request)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX keyed_request_cubes_by_request ON keyed_request_cubes (request)")
    for name, event, cube in (
        ("memory_wiped", "UPDATE OF text ON memories WHEN NEW.text = '' AND OLD.text != ''", "cube_id"),
        ("message_changed", "UPDATE OF text ON messages WHEN NEW.text != OLD.text", "cube_id"),
        ("message_removed", "DELETE ON messages", "cube_id"),
        ("cube_removed", "DELETE ON cubes", "id"),
    ):
        db.execute(
            f"CREATE TRIGGER replies_when_{name} AFTER {event} BEGIN"
            " UPDATE keyed_requests SET gone = 1, headers = NULL, body = NULL, nbytes = 0 WHERE quotes AND NOT gone"
            f" AND seq IN (SELECT request FROM keyed_request_cubes WHERE cube_id = OLD.{cube}"
            " UNION ALL SELECT seq FROM keyed_requests WHERE status IS NULL); END"
        )


@migration
def _whose_messages(db: sqlite3.Connection) -> None:
    """Keep the ids that a message was added for, so that what is deleted for one of them is."""
    for column in ("owner", "agent", "app"):
        db.execute(f"ALTER TABLE messages ADD COLUMN {column} TEXT")
    infer_ids(db)


@migration
def _words_without_spaces(db: sqlite3.Connection) -> None:
    """Index texts of scripts without spaces by pairs of characters; digest what signs tell apart (5 and -5) apart."""
    entries = [
        (*found, row)
        for row, text, context in db.execute("SELECT rowid, text, context FROM memory_text")
        if (found := (searchable(text), searchable(context))) != (text, context)
    ]
    db.executemany("UPDATE memory_text SET text = ?, context = ? WHERE rowid = ?", entries)
    digests = [
        (now, row)
        for row, text, digest in db.execute("SELECT rowid, text, digest FROM memories WHERE digest IS NOT NULL")
        if (now := digest_of(text)) != digest
    ]
    db.executemany("UPDATE memories SET digest = ? WHERE rowid = ?", digests)


@migration
def _former_by_newer(db: sqlite3.Connection) -> None:
    """Find what a memory has taken the place of without looking at all others."""
    db.execute("CREATE INDEX memories_by_newer ON memories (replaced_by) WHERE replaced_by IS NOT NULL")

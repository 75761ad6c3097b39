"""Rows of the side store's database, and what they stand for."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from memory.errors import Forbidden, NotFound, Stale
from memory.language.names import link, names_in, unlink
from memory.search.vectors import Vector
from memory.storage.sqlite.database import note_cube
from memory.storage.sqlite.fulltext import cube_word
from memory.types import Access, Change, Cube, Memory, Message

# Cubes a tenant may use: its own, and those that were shared with it or with a group that it is a member of.
_GRANTED = (
    "SELECT g.cube_id, g.access FROM grants g WHERE g.principal = :tenant"
    " OR g.principal IN (SELECT group_id FROM group_members WHERE member = :tenant)"
)
VISIBLE = f"(SELECT id FROM cubes WHERE tenant = :tenant UNION SELECT cube_id FROM ({_GRANTED}))"
_COLUMNS = (
    "id",
    "cube_id",
    "owner",
    "kind",
    "text",
    "status",
    "pinned",
    "version",
    "revision",
    "created_at",
    "updated_at",
    "event_at",
    "event_until",
    "author",
    "agent",
    "session",
    "importance",
    "expires_at",
    "slot",
    "value",
    "valid_until",
    "replaced_by",
    "uses",
    "follows",
)
_VECTOR_DTYPE = np.float16
# In use: what has expired no longer is from that second on, though it is only archived with the next round of chores.
LIVE = "(status = 'active' AND (expires_at IS NULL OR expires_at > unix_now()))"


def find_cube(db: sqlite3.Connection, tenant: str, cube: str, need: Access = "read") -> Cube:
    """A cube by id, or one's own by name. Raises ``NotFound``, ``Forbidden`` (may be read, not written)."""
    cube = cube.strip()  # as names are
    row = db.execute(
        f"SELECT * FROM cubes WHERE (id = :cube AND id IN {VISIBLE}) OR (tenant = :tenant AND name = :cube)"
        " ORDER BY id = :cube DESC",
        {"tenant": tenant, "cube": cube},
    ).fetchone()
    if row is None:
        raise NotFound("cube", cube)
    note_cube(row["id"])
    if need == "write" and row["tenant"] != tenant:
        check_writable(db, tenant, row["id"])
    return cube_of(row)


def check_writable(db: sqlite3.Connection, tenant: str, cube_id: str) -> None:
    """Raises ``Forbidden`` for a cube of another tenant that was not shared for writing."""
    row = db.execute(
        f"SELECT 1 FROM cubes c WHERE c.id = :cube AND (c.tenant = :tenant OR EXISTS (SELECT 1 FROM ({_GRANTED}) x"
        " WHERE x.cube_id = c.id AND x.access = 'write'))",
        {"tenant": tenant, "cube": cube_id},
    ).fetchone()
    if row is None:
        raise Forbidden(f"The cube '{cube_id}' may be read, not changed.")


def find_row(
    db: sqlite3.Connection, tenant: str, memory_id: str, *, with_deleted: bool = False, need: Access = "read"
) -> sqlite3.Row:
    """A memory's row. Raises ``NotFound`` for an unknown, deleted or another tenant's id, ``Forbidden``."""
    row: sqlite3.Row | None = db.execute(
        f"SELECT m.rowid AS row, m.* FROM memories m WHERE m.id = :id AND m.cube_id IN {VISIBLE}",
        {"id": memory_id, "tenant": tenant},
    ).fetchone()
    if row is None or (row["status"] == "deleted" and not with_deleted):
        raise NotFound("memory", memory_id)
    note_cube(row["cube_id"])
    if need == "write":
        check_writable(db, tenant, row["cube_id"])
    return row


def check_revision(found: Memory | Cube, expected: Collection[int] | None) -> None:
    """Raises ``Stale`` unless a memory or cube is of one of the ``expected`` revisions (None: any)."""
    if expected is not None and found.revision not in expected:
        raise Stale(found.revision)


def digest_of(text: str) -> str:
    """A hash of a text's words: what differs in case, spaces and punctuation only has the same."""
    return hashlib.blake2b(" ".join(re.findall(r"\w+", text.lower())).encode(), digest_size=16).hexdigest()


def insert_memory(db: sqlite3.Connection, memory: Memory) -> int:
    """Write a new memory's row (without search rows), and return its row id."""
    names = (*_COLUMNS, "metadata", "tags", "digest")
    values = [getattr(memory, name) for name in _COLUMNS]
    values += [json.dumps(memory.metadata), json.dumps(memory.tags), digest_of(memory.text)]
    cursor = db.execute(
        f"INSERT INTO memories ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        values,
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def update_memory(db: sqlite3.Connection, memory: Memory) -> Memory:
    """Write all of a memory's fields, as its next revision, which is returned. ``memory`` is of the row as it is in
    this transaction: what was read before it could undo what others have done since."""
    memory = replace(memory, revision=memory.revision + 1)
    names = (*_COLUMNS[1:], "metadata", "tags", "digest")
    values = [getattr(memory, name) for name in _COLUMNS[1:]]
    values += [json.dumps(memory.metadata), json.dumps(memory.tags), digest_of(memory.text)]
    changes = ", ".join(f"{name} = ?" for name in names)
    db.execute(f"UPDATE memories SET {changes} WHERE id = ?", (*values, memory.id))
    return memory


def note_change(
    db: sqlite3.Connection, memory: Memory, action: str, text: str | None = None, detail: dict[str, Any] | None = None
) -> None:
    """Add a step to a memory's history."""
    db.execute(
        "INSERT INTO memory_changes (memory_id, at, action, version, text, detail) VALUES (?, ?, ?, ?, ?, ?)",
        (memory.id, time.time(), action, memory.version, text, json.dumps(detail or {})),
    )


def insert_noted(db: sqlite3.Connection, memory: Memory, action: str) -> int:
    """``insert_memory``, and the first step of its history."""
    row = insert_memory(db, memory)
    note_change(db, memory, action)
    return row


def mark_deleted(db: sqlite3.Connection, row: int) -> None:
    """Say that a memory is deleted, so that it can be brought back."""
    db.execute(
        "UPDATE memories SET status_before = status, status = 'deleted', deleted_at = ?, revision = revision + 1"
        " WHERE rowid = ?",
        (time.time(), row),
    )


def changes_of(db: sqlite3.Connection, memory_id: str) -> list[Change]:
    """A memory's history, oldest first."""
    rows = db.execute("SELECT * FROM memory_changes WHERE memory_id = ? ORDER BY seq", (memory_id,))
    return [Change(r["at"], r["action"], r["version"], r["text"], json.loads(r["detail"])) for r in rows]


def write_search_rows(
    db: sqlite3.Connection, row: int, memory: Memory, context: str, embedder: str, vector: Vector
) -> None:
    """Make a memory findable: full text, names, vector."""
    write_text_rows(db, row, memory, context)
    write_vector(db, row, embedder, vector)


def write_text_rows(db: sqlite3.Connection, row: int, memory: Memory, context: str) -> None:
    """What of a memory is found without its vector: full text, names."""
    db.execute(
        "INSERT INTO memory_text (rowid, cube, text, context) VALUES (?, ?, ?, ?)",
        (row, cube_word(memory.cube_id), memory.text, context),
    )
    link(db, memory.cube_id, row, names_in(memory.said))


def remove_search_rows(db: sqlite3.Connection, row: int) -> None:
    """Make a memory unfindable."""
    db.execute("DELETE FROM memory_text WHERE rowid = ?", (row,))
    db.execute("DELETE FROM vectors WHERE memory = ?", (row,))
    unlink(db, row)


def write_vector(db: sqlite3.Connection, row: int, embedder: str, vector: Vector) -> None:
    """Store a memory's vector beside the name of the embedder that made it (float16: the error is under 1e-3)."""
    blob = np.ascontiguousarray(vector, dtype=_VECTOR_DTYPE).tobytes()
    db.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", (row, embedder, blob, time.time()))


def vector_of(blob: bytes) -> Vector:
    """float32 [dim]."""
    return np.frombuffer(blob, _VECTOR_DTYPE).astype(np.float32)


def context_of(db: sqlite3.Connection, memory_id: str) -> str:
    """What was said just before a memory: the two messages before the first that it is from."""
    first = db.execute(
        "SELECT s.* FROM messages s JOIN provenance p ON p.message_id = s.id WHERE p.memory_id = ? ORDER BY s.rowid",
        (memory_id,),
    ).fetchone()
    if first is None:
        return ""
    return " ".join(spoken(m) for m in messages_before(db, first["cube_id"], first["conversation"], first["rowid"]))


def sources_of(db: sqlite3.Connection, memory_id: str) -> list[Message]:
    """The messages that a memory is from, in order."""
    rows = db.execute(
        "SELECT s.* FROM messages s JOIN provenance p ON p.message_id = s.id WHERE p.memory_id = ? ORDER BY s.rowid",
        (memory_id,),
    )
    return [message_of(row) for row in rows]


def messages_before(db: sqlite3.Connection, cube_id: str, conversation: str | None, row: int | None) -> list[Message]:
    """The last two messages of a conversation before the one with this row id (None: of all), in order."""
    rows = db.execute(
        "SELECT * FROM messages WHERE cube_id = ? AND conversation IS ? AND rowid < ? ORDER BY rowid DESC LIMIT 2",
        (cube_id, conversation, 2**62 if row is None else row),
    ).fetchall()
    return [message_of(row) for row in reversed(rows)]


def spoken(message: Message) -> str:
    """A message with its speaker, as a memory's context."""
    return f"{message.speaker}: {message.text}"


def insert_message(
    db: sqlite3.Connection,
    cube_id: str,
    conversation: str | None,
    message: Message,
    *,
    owner: str | None = None,
    agent: str | None = None,
    app: str | None = None,
) -> bool:
    """Keep a message, with the ids that it was added for; whether it was not there yet."""
    cursor = db.execute(
        "INSERT OR IGNORE INTO messages (id, cube_id, conversation, role, author, text, sent_at, created_at, metadata,"
        " owner, agent, app) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message.id,
            cube_id,
            conversation,
            message.role,
            message.author,
            message.text,
            message.sent_at,
            time.time(),
            json.dumps({**message.metadata, "utc_offset": message.utc_offset}),
            owner,
            agent,
            app,
        ),
    )
    return cursor.rowcount == 1


def cube_of(row: sqlite3.Row) -> Cube:
    """The cube a row stands for."""
    return Cube(row["id"], row["tenant"], row["name"], row["created_at"], row["fidelity"], row["revision"])


def message_of(row: sqlite3.Row) -> Message:
    """The message a row stands for."""
    metadata = json.loads(row["metadata"])
    offset = metadata.pop("utc_offset", 0)
    return Message(row["id"], row["role"], row["text"], row["sent_at"], row["author"], offset, metadata)


def memory_of(row: sqlite3.Row) -> Memory:
    """The memory a row stands for."""
    named = dict(zip(row.keys(), row, strict=True))  # looking names up in the row itself takes several times as long
    values = {name: named[name] for name in _COLUMNS}
    values["pinned"] = bool(named["pinned"])
    if values["status"] == "active" and (expires_at := named["expires_at"]) is not None and expires_at <= time.time():
        values["status"] = "archived"
    return Memory(**values, metadata=json.loads(named["metadata"]), tags=tuple(json.loads(named["tags"])))


def memories_of(rows: Sequence[sqlite3.Row]) -> list[Memory]:
    return [memory_of(row) for row in rows]

"""Rows of the side store's database, and what they stand for."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import numpy.typing as npt

from memory.errors import NotFound
from memory.search import match_expression
from memory.types import Cube, Memory

Vector = npt.NDArray[np.float32]


def find_row(db: sqlite3.Connection, tenant: str, memory_id: str, *, with_deleted: bool = False) -> sqlite3.Row:
    """A memory's row. Raises ``NotFound`` for an unknown, deleted or another tenant's id."""
    row: sqlite3.Row | None = db.execute(
        "SELECT m.* FROM memories m JOIN cubes c ON c.id = m.cube_id WHERE m.id = ? AND c.tenant = ?",
        (memory_id, tenant),
    ).fetchone()
    if row is None or (row["status"] == "deleted" and not with_deleted):
        raise NotFound("memory", memory_id)
    return row


def active_memories(db: sqlite3.Connection, ids: list[str]) -> list[Memory]:
    """The active ones among these ids, in any order."""
    rows = db.execute(
        "SELECT * FROM memories WHERE status = 'active' AND id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    ).fetchall()
    return [memory_of(row) for row in rows]


def text_ranking(db: sqlite3.Connection, query: str, cubes: list[str], depth: int) -> list[str]:
    """Ids of active memories of these cubes that match the query's words, best (bm25) first."""
    expression = match_expression(query)
    if expression is None:
        return []
    rows = db.execute(
        "SELECT m.id FROM memory_text JOIN memories m ON m.rowid = memory_text.rowid"
        " WHERE memory_text MATCH ? AND m.status = 'active' AND m.cube_id IN (SELECT value FROM json_each(?))"
        " ORDER BY bm25(memory_text), m.rowid DESC LIMIT ?",
        (expression, json.dumps(cubes), depth),
    ).fetchall()
    return [str(row["id"]) for row in rows]


def write_vector(db: sqlite3.Connection, memory_id: str, embedder: str, vector: Vector) -> None:
    """Store a memory's vector beside the name of the embedder that made it."""
    blob = np.ascontiguousarray(vector, dtype=np.float32).tobytes()
    db.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", (memory_id, embedder, blob))


def wipe(db: sqlite3.Connection, rowid: int, memory_id: str) -> None:
    """Remove a memory's search rows and earlier versions."""
    db.execute("DELETE FROM memory_text WHERE rowid = ?", (rowid,))
    db.execute("DELETE FROM vectors WHERE memory_id = ?", (memory_id,))
    db.execute("DELETE FROM memory_versions WHERE memory_id = ?", (memory_id,))


def cube_of(row: sqlite3.Row) -> Cube:
    """The cube a row stands for."""
    return Cube(row["id"], row["tenant"], row["name"], row["created_at"], row["fidelity"])


def memory_of(row: sqlite3.Row) -> Memory:
    """The memory a row stands for."""
    return Memory(
        id=row["id"],
        cube_id=row["cube_id"],
        owner=row["owner"],
        kind=row["kind"],
        text=row["text"],
        status=row["status"],
        pinned=bool(row["pinned"]),
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        event_at=row["event_at"],
        metadata=json.loads(row["metadata"]),
    )

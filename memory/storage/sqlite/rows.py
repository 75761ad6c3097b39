"""Rows of the SQLite file, and what they stand for."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

from memory.language.words import digest_of
from memory.storage.records import StoredMemory
from memory.types import Cube, Memory, Message, Subject

COLUMNS = (
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
# Cubes a tenant may use: its own, and those that were shared with it or with a group that it is a member of.
GRANTED = (
    "SELECT g.cube_id, g.access FROM grants g WHERE g.principal = :tenant"
    " OR g.principal IN (SELECT group_id FROM group_members WHERE member = :tenant)"
)
VISIBLE = f"(SELECT id FROM cubes WHERE tenant = :tenant UNION SELECT cube_id FROM ({GRANTED}))"
# In use: what has expired no longer is from that second on, though it is only archived with the next round of chores.
LIVE = "(status = 'active' AND (expires_at IS NULL OR expires_at > unix_now()))"
LISTED = "(SELECT value FROM json_each(?))"
"""The elements of a JSON list that is given for the question mark."""


def listed(values: Iterable[Any]) -> str:
    """Return the JSON that ``LISTED`` takes."""
    return json.dumps(list(values))


def values_of(memory: Memory, columns: Sequence[str]) -> list[Any]:
    """Return a memory's values for these columns, then metadata, tags and digest."""
    values = [getattr(memory, name) for name in columns]
    return [*values, json.dumps(memory.metadata), json.dumps(memory.tags), digest_of(memory.text)]


def memory_of(row: sqlite3.Row) -> Memory:
    """Return the memory a row stands for."""
    return _memory_of(dict(zip(row.keys(), row, strict=True)))


def _memory_of(named: dict[str, Any]) -> Memory:
    # Named once: looking names up in the row itself takes several times as long.
    values = {name: named[name] for name in COLUMNS}
    values["pinned"] = bool(named["pinned"])
    if values["status"] == "active" and (expires_at := named["expires_at"]) is not None and expires_at <= time.time():
        values["status"] = "archived"
    return Memory(**values, metadata=json.loads(named["metadata"]), tags=tuple(json.loads(named["tags"])))


def stored_of(row: sqlite3.Row) -> StoredMemory:
    """Return the memory a row stands for with its number: ``rowid`` selected as ``row``."""
    named = dict(zip(row.keys(), row, strict=True))
    memory = _memory_of(named)
    return StoredMemory(named["row"], memory, named["digest"], named["deleted_at"], named["status_before"])


def all_stored(rows: Iterable[sqlite3.Row]) -> list[StoredMemory]:
    """Return the memories of rows, in their order."""
    return [stored_of(row) for row in rows]


def labels_of(rows: Iterable[sqlite3.Row]) -> set[str]:
    """Return ``Memory.label`` of rows of id and version."""
    return {f"{row['id']}@{row['version']}" for row in rows}


def message_of(row: sqlite3.Row) -> Message:
    """Return the message a row stands for."""
    metadata = json.loads(row["metadata"])
    offset = metadata.pop("utc_offset", 0)
    return Message(row["id"], row["role"], row["text"], row["sent_at"], row["author"], offset, metadata)


def cube_of(row: sqlite3.Row) -> Cube:
    """Return the cube a row stands for."""
    return Cube(row["id"], row["tenant"], row["name"], row["created_at"], row["fidelity"], row["revision"])


def subject_rows(table: str, tenant: str, subject: Subject, cubes: Sequence[str] | None) -> tuple[str, tuple[Any, ...]]:
    """Return what comes behind SELECT for rows ``x`` of memories or messages that are a subject's, and its values."""
    columns = {"owner": "x.owner", "agent": "x.agent"}
    if table == "memories":
        columns |= {"session": "x.session", "app": "json_extract(x.metadata, '$.app_id')"}
    else:
        columns |= {"session": "x.conversation", "app": "x.app"}
    given = subject.ids
    theirs = " AND ".join(["1", *(f"({columns[name]} IS ? OR c.name = ?)" for name in given)])
    sql = (
        f" FROM {table} x JOIN cubes c ON c.id = x.cube_id WHERE c.tenant = ?1 AND (?2 IS NULL OR c.name IN"
        f" (SELECT value FROM json_each(?2))) AND {theirs}"
    )
    names = None if cubes is None else listed(cubes)
    return sql, (tenant, names, *(value for pair in given.values() for value in pair))

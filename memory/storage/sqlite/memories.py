"""Memories as rows. A memory's number is its rowid."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from memory.errors import NotFound
from memory.language.words import digest_of
from memory.storage.records import StoredMemory
from memory.storage.sqlite.cubes import check_writable
from memory.storage.sqlite.rows import (
    COLUMNS,
    LISTED,
    LIVE,
    VISIBLE,
    all_stored,
    listed,
    memory_of,
    stored_of,
    values_of,
)
from memory.storage.ticket import note_cube
from memory.types import Access, Memory

_ALSO = ("metadata", "tags", "digest")
_STORED = "SELECT rowid AS row, * FROM memories"


class SqliteMemories:
    """See ``memory.storage.content.Memories``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def find(self, tenant: str, memory_id: str, *, with_deleted: bool = False, need: Access = "read") -> StoredMemory:
        row = self._db.execute(
            f"SELECT m.rowid AS row, m.* FROM memories m WHERE m.id = :id AND m.cube_id IN {VISIBLE}",
            {"id": memory_id, "tenant": tenant},
        ).fetchone()
        if row is None or (row["status"] == "deleted" and not with_deleted):
            raise NotFound("memory", memory_id)
        note_cube(row["cube_id"])
        if need == "write":
            check_writable(self._db, tenant, row["cube_id"])
        return stored_of(row)

    def stored(self, numbers: Collection[int]) -> list[StoredMemory]:
        return all_stored(self._db.execute(f"{_STORED} WHERE rowid IN {LISTED}", (listed(numbers),)))

    def insert(self, memory: Memory) -> int:
        names = (*COLUMNS, *_ALSO)
        cursor = self._db.execute(
            f"INSERT INTO memories ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            values_of(memory, COLUMNS),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update(self, memory: Memory) -> Memory:
        memory = replace(memory, revision=memory.revision + 1)
        changes = ", ".join(f"{name} = ?" for name in (*COLUMNS[1:], *_ALSO))
        values = values_of(memory, COLUMNS[1:])
        self._db.execute(f"UPDATE memories SET {changes} WHERE id = ?", (*values, memory.id))
        return memory

    def mark_deleted(self, number: int) -> None:
        self._db.execute(
            "UPDATE memories SET status_before = status, status = 'deleted', deleted_at = ?, revision = revision + 1"
            " WHERE rowid = ?",
            (time.time(), number),
        )

    def unmark_deleted(self, number: int) -> None:
        self._db.execute("UPDATE memories SET status_before = NULL, deleted_at = NULL WHERE rowid = ?", (number,))

    def by_slot(self, cube_id: str, slot: str, owner: str | None) -> list[StoredMemory]:
        return all_stored(
            self._db.execute(
                f"{_STORED} WHERE cube_id = ? AND slot = ? AND owner IS ? AND {LIVE} ORDER BY rowid",
                (cube_id, slot, owner),
            )
        )

    def by_slot_of_anyone(self, cube_id: str, slot: str) -> list[Memory]:
        rows = self._db.execute(
            f"SELECT * FROM memories WHERE cube_id = ? AND slot = ? AND {LIVE} ORDER BY rowid DESC", (cube_id, slot)
        )
        return [memory_of(row) for row in rows]

    def same_words(self, memory: Memory) -> StoredMemory | None:
        row = self._db.execute(
            f"{_STORED} WHERE cube_id = ? AND digest = ? AND {LIVE} AND author IS ? AND owner IS ?",
            (memory.cube_id, digest_of(memory.text), memory.author, memory.owner),
        ).fetchone()
        return None if row is None else stored_of(row)

    def same_kind(self, number: int, memory: Memory) -> StoredMemory | None:
        row = self._db.execute(
            f"{_STORED} WHERE rowid = ? AND cube_id = ? AND {LIVE} AND kind = ? AND author IS ? AND owner IS ?",
            (number, memory.cube_id, memory.kind, memory.author, memory.owner),
        ).fetchone()
        return None if row is None else stored_of(row)

    def texts_before(self, memory: Memory) -> list[str]:
        before: list[str] = []
        follows = memory.follows
        while follows is not None and len(before) < 2:
            row = self._db.execute("SELECT text, follows FROM memories WHERE id = ?", (follows,)).fetchone()
            if row is None or not row["text"]:
                break
            before.append(row["text"])
            follows = row["follows"]
        return before

    def last_of(self, cube_id: str, session: str | None) -> list[tuple[str, str]]:
        rows = self._db.execute(
            "SELECT id, text FROM memories WHERE cube_id = ? AND session = ? AND status != 'deleted'"
            " ORDER BY rowid DESC LIMIT 2",
            (cube_id, session),
        )
        return [(row["id"], row["text"]) for row in rows]

    def of_document(self, cube_id: str, document_id: str) -> list[StoredMemory]:
        return all_stored(
            self._db.execute(
                f"{_STORED} WHERE cube_id = ? AND status != 'deleted'"
                " AND json_extract(metadata, '$.document') = ? ORDER BY rowid",
                (cube_id, document_id),
            )
        )

    def behind(self, cube_ids: Collection[str], memory_ids: Collection[str]) -> list[StoredMemory]:
        return all_stored(
            self._db.execute(
                f"{_STORED} WHERE cube_id IN {LISTED} AND status = 'active' AND follows IN {LISTED}",
                (listed(cube_ids), listed(memory_ids)),
            )
        )

    def with_former(self, numbers: Sequence[int], statuses: Sequence[str]) -> list[int]:
        found = self._db.execute(
            "WITH RECURSIVE g(row, id, cube) AS (SELECT rowid, id, cube_id FROM memories WHERE rowid IN"
            " (SELECT value FROM json_each(?1)) UNION SELECT m.rowid, m.id, m.cube_id FROM g JOIN memories m"
            " ON m.cube_id = g.cube AND m.replaced_by = g.id AND m.status IN (SELECT value FROM json_each(?2)))"
            " SELECT row FROM g",
            (listed(numbers), listed(statuses)),
        )
        return [int(row) for (row,) in found]

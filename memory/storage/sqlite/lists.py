"""Lists of memories, and their histories, as rows."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

from memory.storage.conditions import EVERYTHING, Condition
from memory.storage.records import Listing, StoredMemory, Text
from memory.storage.sqlite.filters import compiled
from memory.storage.sqlite.rows import LISTED, LIVE, VISIBLE, all_stored, labels_of, listed, memory_of, subject_rows
from memory.types import Change, Memory, Subject

# What has expired counts as archived at once.
_OF_STATUS = {
    "active": LIVE,
    "archived": f"(m.status = 'archived' OR (m.status = 'active' AND NOT {LIVE}))",
}


class SqliteLists:
    """See ``memory.storage.content.Lists``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def page(self, listing: Listing, condition: Condition, limit: int) -> list[Memory]:
        where, values = _listed(listing)
        if condition != EVERYTHING:
            sql, more = compiled(condition)
            where.append(sql)
            values += more
        if listing.after is not None:
            where.append("m.rowid > ?")
            values.append(listing.after)
        rows = self._db.execute(
            f"SELECT m.* FROM memories m WHERE {' AND '.join(where)} ORDER BY m.rowid LIMIT ?", (*values, limit)
        )
        return [memory_of(row) for row in rows]

    def standing(self, cube_id: str) -> list[Memory]:
        rows = self._db.execute(
            f"SELECT * FROM memories WHERE cube_id = ? AND {LIVE} AND (pinned OR kind IN ('profile', 'instruction'))"
            " ORDER BY rowid",
            (cube_id,),
        )
        return [memory_of(row) for row in rows]

    def of_cube(self, cube_id: str) -> list[Memory]:
        rows = self._db.execute("SELECT * FROM memories WHERE cube_id = ? ORDER BY rowid", (cube_id,))
        return [memory_of(row) for row in rows]

    def active(self, cube_id: str) -> list[StoredMemory]:
        rows = self._db.execute(
            "SELECT rowid AS row, * FROM memories WHERE cube_id = ? AND status = 'active'", (cube_id,)
        )
        return all_stored(rows)

    def newest(self, limit: int, cube_id: str | None = None) -> list[Text]:
        # Each order has an index: of a large cube, no other rows are read.
        of_cube, order = ("", "m.rowid") if cube_id is None else (" AND m.cube_id = :cube", "m.created_at")
        rows = self._db.execute(
            "SELECT m.cube_id, m.text, v.embedder FROM memories m LEFT JOIN vectors v ON v.memory = m.rowid"
            f" WHERE m.status = 'active'{of_cube} ORDER BY {order} DESC LIMIT :limit",
            {"cube": cube_id, "limit": limit},
        )
        return [Text(row["cube_id"], row["text"], row["embedder"]) for row in rows]

    def count(self, tenant: str) -> int:
        (n,) = self._db.execute(
            f"SELECT count(*) FROM memories m JOIN cubes c ON c.id = m.cube_id WHERE c.tenant = ? AND {LIVE}",
            (tenant,),
        ).fetchone()
        return int(n)

    def labels_of(self, tenant: str) -> set[str]:
        rows = self._db.execute(
            f"SELECT m.id, m.version FROM memories m WHERE {LIVE} AND m.cube_id IN {VISIBLE}", {"tenant": tenant}
        )
        return labels_of(rows)

    def all_labels(self) -> set[str]:
        return labels_of(self._db.execute(f"SELECT id, version FROM memories WHERE {LIVE}"))

    def expired(self, now: float, limit: int) -> list[StoredMemory]:
        rows = self._db.execute(
            "SELECT rowid AS row, * FROM memories WHERE expires_at IS NOT NULL AND expires_at <= ?"
            " AND status = 'active' LIMIT ?",
            (now, limit),
        )
        return all_stored(rows)

    def late(self, before: float, limit: int) -> list[tuple[int, str]]:
        rows = self._db.execute(
            "SELECT m.rowid AS row, c.tenant FROM memories m JOIN cubes c ON c.id = m.cube_id"
            " WHERE m.deleted_at IS NOT NULL AND m.deleted_at < ? LIMIT ?",
            (before, limit),
        )
        return [(row["row"], row["tenant"]) for row in rows]

    def of_subject(self, tenant: str, subject: Subject, cubes: Sequence[str] | None) -> list[StoredMemory]:
        theirs, values = subject_rows("memories", tenant, subject, cubes)
        return all_stored(self._db.execute(f"SELECT x.rowid AS row, x.*{theirs}", values))


def _listed(listing: Listing) -> tuple[list[str], list[Any]]:
    """Return the conditions of a list, and their values."""
    where: list[str] = []
    values: list[Any] = []
    if listing.status in _OF_STATUS:
        where.append(_OF_STATUS[listing.status])
    else:
        where.append("m.status = ?")
        values.append(listing.status)
    if listing.cube_id is not None:
        where.append("m.cube_id = ?")
        values.append(listing.cube_id)
    else:
        where.append("m.cube_id IN (SELECT id FROM cubes WHERE tenant = ?)")
        values.append(listing.tenant)
    if listing.status == "deleted":
        where.append("m.deleted_at IS NOT NULL")
    if listing.kind is not None:
        where.append("m.kind = ?")
        values.append(listing.kind)
    return where, values


class SqliteHistory:
    """See ``memory.storage.content.History``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, memory: Memory, action: str, text: str | None = None, detail: dict[str, Any] | None = None) -> None:
        self.add_all([(memory.id, Change(time.time(), action, memory.version, text, detail or {}))])

    def add_all(self, changes: Iterable[tuple[str, Change]]) -> None:
        self._db.executemany(
            "INSERT INTO memory_changes (memory_id, at, action, version, text, detail) VALUES (?, ?, ?, ?, ?, ?)",
            [(id, c.at, c.action, c.version, c.text, json.dumps(c.detail)) for id, c in changes],
        )

    def of(self, memory_id: str) -> list[Change]:
        rows = self._db.execute("SELECT * FROM memory_changes WHERE memory_id = ? ORDER BY seq", (memory_id,))
        return [Change(r["at"], r["action"], r["version"], r["text"], json.loads(r["detail"])) for r in rows]

    def texts_of(self, numbers: Sequence[int]) -> list[str]:
        rows = self._db.execute(
            "SELECT text FROM memory_changes WHERE text != '' AND memory_id IN"
            f" (SELECT id FROM memories WHERE rowid IN {LISTED}) ORDER BY seq",
            (listed(numbers),),
        )
        return [row["text"] for row in rows]

    def note_feedback(self, memory_id: str, feedback_id: str) -> None:
        self._db.execute(
            "UPDATE memory_changes SET detail = json_set(detail, '$.feedback', ?)"
            " WHERE seq = (SELECT max(seq) FROM memory_changes WHERE memory_id = ?)",
            (feedback_id, memory_id),
        )

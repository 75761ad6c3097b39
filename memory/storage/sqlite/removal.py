"""Removing text for good: rows are overwritten, and what was derived from them goes with them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from memory.language.words import searchable
from memory.storage.records import StoredMessage
from memory.storage.sqlite.fulltext import cube_word
from memory.storage.sqlite.messages import renew_context, renew_contexts
from memory.storage.sqlite.rows import LISTED, listed
from memory.types import Memory, Scan

_REPLIES = (
    "SELECT count(*) FROM keyed_requests WHERE seq IN (SELECT request FROM keyed_request_cubes WHERE cube_id = ?)"
    " AND instr(body, CAST(? AS BLOB)) > 0"
)


class SqliteRemoval:
    """See ``memory.storage.content.Removal``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def wipe_memories(self, numbers: Sequence[int]) -> None:
        db, rows = self._db, listed(numbers)
        ids = listed(id for (id,) in db.execute(f"SELECT id FROM memories WHERE rowid IN {LISTED}", (rows,)))
        named = db.execute(f"SELECT DISTINCT entity FROM mentions WHERE memory IN {LISTED}", (rows,))
        names = listed(id for (id,) in named)
        newer = db.execute(
            f"SELECT DISTINCT replaced_by FROM memories WHERE rowid IN {LISTED} AND replaced_by IS NOT NULL", (rows,)
        ).fetchall()
        for statement, values in (
            (f"DELETE FROM memory_text WHERE rowid IN {LISTED}", rows),
            (f"DELETE FROM vectors WHERE memory IN {LISTED}", rows),
            (f"DELETE FROM mentions WHERE memory IN {LISTED}", rows),
            (
                f"DELETE FROM entities WHERE id IN {LISTED}"
                " AND NOT EXISTS (SELECT 1 FROM mentions WHERE entity = entities.id)",
                names,
            ),
            (f"DELETE FROM memory_changes WHERE memory_id IN {LISTED}", ids),
            (f"DELETE FROM provenance WHERE memory_id IN {LISTED}", ids),
            (
                "DELETE FROM feedback WHERE EXISTS (SELECT 1 FROM json_each(actions) a"
                f" WHERE json_extract(a.value, '$.memory') IN {LISTED})",
                ids,
            ),
            (
                "UPDATE memories SET status = 'deleted', text = '', metadata = '{}', tags = '[]', pinned = 0,"
                " slot = NULL, value = NULL, digest = NULL, author = NULL, owner = NULL, agent = NULL, session = NULL,"
                " event_at = NULL, event_until = NULL, deleted_at = NULL, status_before = NULL, replaced_by = NULL"
                f" WHERE rowid IN {LISTED}",
                rows,
            ),
        ):
            db.execute(statement, (values,))
        for (id,) in newer:  # it was found by the words of what is gone now
            renew_context(db, id)

    def wipe_messages(self, numbers: Collection[int]) -> None:
        self._db.execute(
            "UPDATE messages SET text = '', author = NULL, metadata = '{}', owner = NULL, agent = NULL, app = NULL"
            f" WHERE rowid IN {LISTED}",
            (listed(numbers),),
        )
        renew_contexts(self._db, numbers)

    def remove_memories(self, numbers: Sequence[int]) -> None:
        self._db.execute(f"DELETE FROM memories WHERE rowid IN {LISTED}", (listed(numbers),))

    def remove_messages(self, messages: Sequence[StoredMessage]) -> None:
        rows, ids = listed(message.number for message in messages), listed(message.id for message in messages)
        self._db.execute(f"DELETE FROM messages WHERE rowid IN {LISTED}", (rows,))
        self._db.execute(f"DELETE FROM feedback WHERE 'msg_' || substr(id, 4) IN {LISTED}", (ids,))
        self._db.execute(f"DELETE FROM provenance WHERE message_id IN {LISTED}", (ids,))

    def scan(self, memory: Memory, texts: Sequence[str]) -> Scan:
        wanted = sorted({text for text in (memory.text, *texts) if len(text) >= 3})
        row, cube = self._count("SELECT rowid FROM memories WHERE id = ?", memory.id), memory.cube_id
        merged = "SELECT count(*) FROM memories WHERE cube_id = ? AND status = 'merged' AND replaced_by = ?"
        in_context = "SELECT count(*) FROM memory_text WHERE cube = ? AND instr(context, ?) > 0"
        in_messages = "SELECT count(*) FROM messages WHERE cube_id = ? AND text = ?"
        return Scan(
            text=self._count("SELECT count(*) FROM memories WHERE id = ? AND text != ''", memory.id)
            + self._count(merged, cube, memory.id),
            history=self._count(
                "SELECT count(*) FROM memory_changes WHERE memory_id = ? AND text IS NOT NULL", memory.id
            ),
            full_text=self._count("SELECT count(*) FROM memory_text WHERE rowid = ?", row)
            + sum(self._count(in_context, cube_word(cube), searchable(text).strip()) for text in wanted),
            vectors=self._count("SELECT count(*) FROM vectors WHERE memory = ?", row),
            graph=self._count("SELECT count(*) FROM mentions WHERE memory = ?", row),
            messages=self._count("SELECT count(*) FROM provenance WHERE memory_id = ?", memory.id)
            + sum(self._count(in_messages, cube, text) for text in wanted),
            feedback=self._count("SELECT count(*) FROM feedback WHERE instr(actions, ?) > 0", memory.id),
            replies=sum(self._count(_REPLIES, cube, json.dumps(text, ensure_ascii=False)[1:-1]) for text in wanted),
        )

    def _count(self, sql: str, *values: Any) -> int:
        return int(self._db.execute(sql, values).fetchone()[0])

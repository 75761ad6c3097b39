"""Messages, and which memories are from them, as rows. A message's number is its rowid."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Sequence

from memory.language.words import searchable
from memory.storage.records import StoredMessage
from memory.storage.sqlite.infer import infer_ids
from memory.storage.sqlite.rows import LISTED, listed, message_of, subject_rows
from memory.types import Message, Subject

# So many of the memories that one has taken the place of help to find it.
_FORMER = 4


class SqliteMessages:
    """See ``memory.storage.content.Messages``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(
        self,
        cube_id: str,
        conversation: str | None,
        message: Message,
        *,
        owner: str | None = None,
        agent: str | None = None,
        app: str | None = None,
    ) -> bool:
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO messages (id, cube_id, conversation, role, author, text, sent_at, created_at,"
            " metadata, owner, agent, app) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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

    def has(self, id: str) -> bool:
        return self._db.execute("SELECT 1 FROM messages WHERE id = ?", (id,)).fetchone() is not None

    def last(self, cube_id: str, conversation: str | None, limit: int) -> list[Message]:
        rows = self._db.execute(
            "SELECT * FROM messages WHERE cube_id = ?1 AND (?2 IS NULL OR conversation = ?2) AND text != ''"
            " ORDER BY rowid DESC LIMIT ?3",
            (cube_id, conversation, limit),
        ).fetchall()
        return [message_of(row) for row in reversed(rows)]

    def before(self, cube_id: str, conversation: str | None) -> list[Message]:
        return messages_before(self._db, cube_id, conversation, None)

    def of_cube(self, cube_id: str) -> list[tuple[str | None, Message]]:
        rows = self._db.execute(
            "SELECT * FROM messages s WHERE s.cube_id = ?1 AND s.text != '' AND (NOT EXISTS (SELECT 1 FROM provenance p"
            " WHERE p.message_id = s.id) OR EXISTS (SELECT 1 FROM provenance p WHERE p.message_id = s.id"
            " AND p.memory_id IN (SELECT id FROM memories WHERE cube_id = ?1 AND status != 'deleted')))"
            " ORDER BY s.rowid",
            (cube_id,),
        )
        return [(row["conversation"], message_of(row)) for row in rows]

    def infer_ids(self, cube_id: str) -> None:
        infer_ids(self._db, cube_id)

    def of_subject(self, tenant: str, subject: Subject, cubes: Sequence[str] | None) -> list[StoredMessage]:
        theirs, values = subject_rows("messages", tenant, subject, cubes)
        rows = self._db.execute(f"SELECT x.rowid AS row, x.id, x.cube_id{theirs}", values)
        return [StoredMessage(row["row"], row["id"], row["cube_id"]) for row in rows]

    def texts(self, numbers: Collection[int]) -> dict[int, str]:
        rows = self._db.execute(f"SELECT rowid AS row, text FROM messages WHERE rowid IN {LISTED}", (listed(numbers),))
        return {row["row"]: row["text"] for row in rows}

    def set_text(self, number: int, text: str) -> None:
        self._db.execute("UPDATE messages SET text = ? WHERE rowid = ?", (text, number))
        renew_contexts(self._db, [number])


class SqliteSources:
    """See ``memory.storage.content.Sources``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def link(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._db.executemany("INSERT OR IGNORE INTO provenance VALUES (?, ?)", pairs)

    def of(self, memory_id: str) -> list[Message]:
        rows = self._db.execute(
            "SELECT s.* FROM messages s JOIN provenance p ON p.message_id = s.id WHERE p.memory_id = ?"
            " ORDER BY s.rowid",
            (memory_id,),
        )
        return [message_of(row) for row in rows]

    def of_cube(self, cube_id: str) -> dict[str, list[str]]:
        links = self._db.execute(
            "SELECT p.memory_id, p.message_id FROM provenance p JOIN messages s ON s.id = p.message_id"
            " WHERE s.text != '' AND p.memory_id IN (SELECT id FROM memories WHERE cube_id = ?1"
            " AND status != 'deleted') ORDER BY s.rowid",
            (cube_id,),
        )
        sources: dict[str, list[str]] = {}
        for link in links:
            sources.setdefault(link["memory_id"], []).append(link["message_id"])
        return sources

    def said_at(self, numbers: Collection[int]) -> dict[int, float]:
        rows = self._db.execute(
            # That somebody found it right does not say it anew.
            "SELECT m.rowid, coalesce(max(CASE WHEN json_extract(s.metadata, '$.feedback') IS NULL THEN s.sent_at END),"
            " max(s.sent_at)) FROM memories m JOIN provenance p ON p.memory_id = m.id"
            f" JOIN messages s ON s.id = p.message_id WHERE m.rowid IN {LISTED} GROUP BY m.rowid",
            (listed(numbers),),
        )
        return dict(tuple(row) for row in rows)

    def context(self, memory_id: str) -> str:
        return context_of(self._db, memory_id)

    def messages_of(self, numbers: Sequence[int]) -> list[int]:
        found = self._db.execute(
            "SELECT DISTINCT s.rowid FROM messages s JOIN provenance p ON p.message_id = s.id JOIN memories m"
            f" ON m.id = p.memory_id WHERE m.rowid IN {LISTED}",
            (listed(numbers),),
        )
        return [int(row) for (row,) in found]

    def memories_of(self, message: int) -> list[tuple[int, str]]:
        rows = self._db.execute(
            "SELECT m.rowid AS row, m.text FROM memories m JOIN provenance p ON p.memory_id = m.id"
            " JOIN messages s ON s.id = p.message_id WHERE s.rowid = ? AND m.text != ''",
            (message,),
        )
        return [(row["row"], row["text"]) for row in rows]

    def emptied(self, messages: Collection[int], gone: Collection[int]) -> set[int]:
        found = self._db.execute(
            f"WITH c AS (SELECT DISTINCT cube_id, conversation FROM messages WHERE rowid IN {LISTED}), emptied AS"
            " (SELECT * FROM c WHERE NOT EXISTS (SELECT 1 FROM messages o JOIN provenance p ON p.message_id = o.id"
            " JOIN memories m ON m.id = p.memory_id WHERE o.cube_id = c.cube_id AND o.conversation IS c.conversation"
            f" AND m.text != '' AND m.rowid NOT IN {LISTED}))"
            " SELECT s.rowid FROM emptied e JOIN messages s ON s.cube_id = e.cube_id"
            " AND s.conversation IS e.conversation",
            (listed(messages), listed(gone)),
        )
        return {int(row) for (row,) in found}


def messages_before(db: sqlite3.Connection, cube_id: str, conversation: str | None, row: int | None) -> list[Message]:
    """Return the last two messages of a conversation before the one with this rowid (None: of all), in order."""
    rows = db.execute(
        "SELECT * FROM messages WHERE cube_id = ? AND conversation IS ? AND rowid < ? ORDER BY rowid DESC LIMIT 2",
        (cube_id, conversation, 2**62 if row is None else row),
    ).fetchall()
    return [message_of(row) for row in reversed(rows)]


def context_of(db: sqlite3.Connection, memory_id: str) -> str:
    """Return what a memory is found by besides its own words: the two messages before the first that it is from, and
    what it has taken the place of."""
    first = db.execute(
        "SELECT s.rowid AS row, s.cube_id, s.conversation FROM messages s JOIN provenance p ON p.message_id = s.id"
        " WHERE p.memory_id = ? ORDER BY s.rowid",
        (memory_id,),
    ).fetchone()
    before = [] if first is None else messages_before(db, first["cube_id"], first["conversation"], first["row"])
    former = db.execute(
        "SELECT text FROM memories WHERE replaced_by = ? AND status = 'archived' AND text != '' AND cube_id ="
        " (SELECT cube_id FROM memories WHERE id = ?) ORDER BY rowid DESC LIMIT ?",
        (memory_id, memory_id, _FORMER),
    )
    return " ".join([*(message.spoken for message in before), *(text for (text,) in former)])


def renew_context(db: sqlite3.Connection, memory_id: str) -> None:
    """Refresh the full text's context of one memory."""
    db.execute(
        "UPDATE memory_text SET context = ? WHERE rowid = (SELECT rowid FROM memories WHERE id = ?)",
        (searchable(context_of(db, memory_id)), memory_id),
    )


def renew_contexts(db: sqlite3.Connection, messages: Collection[int]) -> None:
    """Refresh the full text's context of the memories of these messages' conversations."""
    found = db.execute(
        "SELECT DISTINCT m.rowid AS row, m.id FROM memories m JOIN provenance p ON p.memory_id = m.id"
        " JOIN messages s ON s.id = p.message_id JOIN (SELECT DISTINCT cube_id, conversation FROM messages"
        f" WHERE rowid IN {LISTED}) c ON s.cube_id = c.cube_id AND s.conversation IS c.conversation"
        " WHERE m.rowid IN (SELECT rowid FROM memory_text)",
        (listed(messages),),
    ).fetchall()
    for row in found:
        db.execute(
            "UPDATE memory_text SET context = ? WHERE rowid = ?", (searchable(context_of(db, row["id"])), row["row"])
        )

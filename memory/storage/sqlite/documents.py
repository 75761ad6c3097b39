"""Documents and feedback as rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from memory.storage.sqlite.rows import LISTED, listed
from memory.types import Document, FeedbackAction, FeedbackOutcome


class SqliteDocuments:
    """See ``memory.storage.content.Documents``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(self, document: Document) -> None:
        self._db.execute(
            "INSERT INTO documents (id, cube_id, name, digest, n_chunks, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (document.id, document.cube_id, document.name, document.digest, document.n_chunks, document.created_at),
        )

    def find(self, cube_id: str, *, id: str | None = None, name: str | None = None) -> Document | None:
        row = self._db.execute(
            "SELECT * FROM documents WHERE cube_id = ?1 AND (id = ?2 OR name = ?3)", (cube_id, id, name)
        ).fetchone()
        return None if row is None else _document_of(row)

    def of_cube(self, cube_id: str) -> list[Document]:
        rows = self._db.execute("SELECT * FROM documents WHERE cube_id = ? ORDER BY name", (cube_id,))
        return [_document_of(row) for row in rows]

    def remove(self, document_id: str) -> None:
        self._db.execute("DELETE FROM documents WHERE id = ?", (document_id,))

    def remove_empty(self, cube_ids: Collection[str]) -> None:
        self._db.execute(
            f"DELETE FROM documents WHERE cube_id IN {LISTED} AND NOT EXISTS (SELECT 1 FROM memories m"
            " WHERE m.cube_id = documents.cube_id AND json_extract(m.metadata, '$.document') = documents.id)",
            (listed(cube_ids),),
        )


def _document_of(row: sqlite3.Row) -> Document:
    return Document(row["id"], row["cube_id"], row["name"], row["digest"], row["n_chunks"], row["created_at"])


class SqliteFeedback:
    """See ``memory.storage.content.Feedback``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(self, outcome: FeedbackOutcome) -> None:
        actions = [{"action": item.action, "memory": item.memory_id} for item in outcome.actions]
        self._db.execute(
            "INSERT INTO feedback (id, cube_id, text, at, actions) VALUES (?, ?, '', ?, ?)",
            (outcome.id, outcome.cube_id, outcome.at, json.dumps(actions)),
        )

    def of_cube(self, cube_id: str, limit: int) -> list[FeedbackOutcome]:
        rows = self._db.execute(
            "SELECT f.id, f.cube_id, f.at, f.actions, coalesce(s.text, '') AS said FROM feedback f"
            " LEFT JOIN messages s ON s.id = 'msg_' || substr(f.id, 4)"
            " WHERE f.cube_id = ? ORDER BY f.at DESC, f.id LIMIT ?",
            (cube_id, limit),
        )
        return [_outcome_of(row) for row in rows]


def _outcome_of(row: sqlite3.Row) -> FeedbackOutcome:
    actions = tuple(FeedbackAction(item["action"], item["memory"]) for item in json.loads(row["actions"]))
    return FeedbackOutcome(row["id"], row["cube_id"], row["said"], row["at"], actions)

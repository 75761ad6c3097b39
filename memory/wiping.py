"""Removing text for good: rows are overwritten, and what was derived from them goes with them."""

from __future__ import annotations

import sqlite3

from memory.rows import context_of, remove_search_rows


def wipe_memory(db: sqlite3.Connection, row: int, memory_id: str) -> list[str]:
    """Overwrite a memory with its history and search rows, and the messages that it is from; the row stays, empty, so
    that its id is known as deleted. Returns the ids of the messages."""
    remove_search_rows(db, row)
    db.execute("DELETE FROM memory_changes WHERE memory_id = ?", (memory_id,))
    messages = [
        r["message_id"] for r in db.execute("SELECT message_id FROM provenance WHERE memory_id = ?", (memory_id,))
    ]
    for message in messages:
        _wipe_message(db, message)
    db.execute("DELETE FROM provenance WHERE memory_id = ?", (memory_id,))
    db.execute("DELETE FROM feedback WHERE instr(actions, ?) > 0", (memory_id,))
    db.execute(
        "UPDATE memories SET status = 'deleted', text = '', metadata = '{}', tags = '[]', pinned = 0, slot = NULL,"
        " value = NULL, digest = NULL, author = NULL, owner = NULL, agent = NULL, session = NULL, event_at = NULL,"
        " event_until = NULL, deleted_at = NULL, status_before = NULL, replaced_by = NULL WHERE rowid = ?",
        (row,),
    )
    return messages


def _wipe_message(db: sqlite3.Connection, message_id: str) -> None:
    """Overwrite a message, and its text in the context of the memories that followed it."""
    message = db.execute(
        "SELECT rowid AS row, cube_id, conversation FROM messages WHERE id = ?", (message_id,)
    ).fetchone()
    if message is None:
        return
    db.execute("UPDATE messages SET text = '', author = NULL, metadata = '{}' WHERE rowid = ?", (message["row"],))
    later = db.execute(
        "SELECT rowid FROM messages WHERE cube_id = ? AND conversation IS ? AND rowid > ? ORDER BY rowid LIMIT 2",
        (message["cube_id"], message["conversation"], message["row"]),
    ).fetchall()
    for following in later:
        rows = db.execute(
            "SELECT m.rowid AS row, m.id, m.text, m.cube_id FROM memories m JOIN provenance p ON p.memory_id = m.id"
            " JOIN messages s ON s.id = p.message_id WHERE s.rowid = ? AND m.status = 'active'",
            (following["rowid"],),
        ).fetchall()
        for row in rows:
            db.execute("UPDATE memory_text SET context = ? WHERE rowid = ?", (context_of(db, row["id"]), row["row"]))


def wipe_cube(db: sqlite3.Connection, cube_id: str) -> None:
    """Remove a cube and everything in it."""
    memories = "SELECT rowid FROM memories WHERE cube_id = ?"
    ids = "SELECT id FROM memories WHERE cube_id = ?"
    for statement in (
        f"DELETE FROM memory_text WHERE rowid IN ({memories})",
        f"DELETE FROM vectors WHERE memory IN ({memories})",
        f"DELETE FROM mentions WHERE memory IN ({memories})",
        f"DELETE FROM memory_changes WHERE memory_id IN ({ids})",
        f"DELETE FROM provenance WHERE memory_id IN ({ids})",
        "DELETE FROM entities WHERE cube_id = ?",
        "DELETE FROM messages WHERE cube_id = ?",
        "DELETE FROM feedback WHERE cube_id = ?",
        "DELETE FROM documents WHERE cube_id = ?",
        "DELETE FROM grants WHERE cube_id = ?",
        "DELETE FROM memories WHERE cube_id = ?",
        "DELETE FROM cubes WHERE id = ?",
    ):
        db.execute(statement, (cube_id,))

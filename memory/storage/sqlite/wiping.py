"""Removing text for good: rows are overwritten, and what was derived from them goes with them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence

from memory.language.extract import sentences_in
from memory.storage.sqlite.fulltext import words_of
from memory.storage.sqlite.rows import context_of

_ALL = "(SELECT value FROM json_each(?))"


def wipe_memories(db: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Overwrite memories with their histories, search rows and what was said of them; the rows stay, empty, so that
    their ids are known as deleted. Their messages are the caller's to wipe."""
    numbers = json.dumps(list(rows))
    ids = json.dumps([id for (id,) in db.execute(f"SELECT id FROM memories WHERE rowid IN {_ALL}", (numbers,))])
    names = json.dumps(
        [id for (id,) in db.execute(f"SELECT DISTINCT entity FROM mentions WHERE memory IN {_ALL}", (numbers,))]
    )
    for statement, values in (
        (f"DELETE FROM memory_text WHERE rowid IN {_ALL}", numbers),
        (f"DELETE FROM vectors WHERE memory IN {_ALL}", numbers),
        (f"DELETE FROM mentions WHERE memory IN {_ALL}", numbers),
        (
            f"DELETE FROM entities WHERE id IN {_ALL}"
            " AND NOT EXISTS (SELECT 1 FROM mentions WHERE entity = entities.id)",
            names,
        ),
        (f"DELETE FROM memory_changes WHERE memory_id IN {_ALL}", ids),
        (f"DELETE FROM provenance WHERE memory_id IN {_ALL}", ids),
        (
            "DELETE FROM feedback WHERE EXISTS (SELECT 1 FROM json_each(actions) a"
            f" WHERE json_extract(a.value, '$.memory') IN {_ALL})",
            ids,
        ),
        (
            "UPDATE memories SET status = 'deleted', text = '', metadata = '{}', tags = '[]', pinned = 0, slot = NULL,"
            " value = NULL, digest = NULL, author = NULL, owner = NULL, agent = NULL, session = NULL, event_at = NULL,"
            " event_until = NULL, deleted_at = NULL, status_before = NULL, replaced_by = NULL"
            f" WHERE rowid IN {_ALL}",
            numbers,
        ),
    ):
        db.execute(statement, (values,))


def wipe_messages(db: sqlite3.Connection, rows: Collection[int]) -> None:
    """Overwrite messages, and their texts in the context of the memories that are left of their conversations."""
    numbers = json.dumps(list(rows))
    db.execute(
        "UPDATE messages SET text = '', author = NULL, metadata = '{}', owner = NULL, agent = NULL, app = NULL"
        f" WHERE rowid IN {_ALL}",
        (numbers,),
    )
    renew_contexts(db, rows)


def renew_contexts(db: sqlite3.Connection, rows: Collection[int]) -> None:
    """Write the full text's context of the memories of these messages' conversations anew."""
    found = db.execute(
        "SELECT DISTINCT m.rowid AS row, m.id FROM memories m JOIN provenance p ON p.memory_id = m.id"
        " JOIN messages s ON s.id = p.message_id JOIN (SELECT DISTINCT cube_id, conversation FROM messages"
        f" WHERE rowid IN {_ALL}) c ON s.cube_id = c.cube_id AND s.conversation IS c.conversation"
        " WHERE m.rowid IN (SELECT rowid FROM memory_text)",
        (json.dumps(list(rows)),),
    ).fetchall()
    for row in found:
        db.execute("UPDATE memory_text SET context = ? WHERE rowid = ?", (context_of(db, row["id"]), row["row"]))


def messages_of(db: sqlite3.Connection, rows: Sequence[int]) -> list[int]:
    """Row ids of the messages that these memories are from."""
    found = db.execute(
        "SELECT DISTINCT s.rowid FROM messages s JOIN provenance p ON p.message_id = s.id JOIN memories m"
        f" ON m.id = p.memory_id WHERE m.rowid IN {_ALL}",
        (json.dumps(list(rows)),),
    )
    return [int(row) for (row,) in found]


def leave_out(db: sqlite3.Connection, rows: Sequence[int]) -> list[int]:
    """Before these memories go: row ids of the messages that go with them. Those are what no other memory is from, and
    all of a conversation that no memory will be left of. From a message that another memory is from, too, the
    sentences are taken that only those that go have."""
    gone = set(rows)
    going: set[int] = set()
    for message in messages_of(db, rows):
        texts = db.execute(
            "SELECT m.rowid AS row, m.text FROM memories m JOIN provenance p ON p.memory_id = m.id"
            " JOIN messages s ON s.id = p.message_id WHERE s.rowid = ? AND m.text != ''",
            (message,),
        ).fetchall()
        kept = [set(words_of(text["text"])) for text in texts if text["row"] not in gone]
        if kept:
            _cut(db, message, [set(words_of(text["text"])) for text in texts if text["row"] in gone], kept)
        else:
            going.add(message)
    return sorted(going | _of_conversations_without(db, going, gone))


def _cut(db: sqlite3.Connection, message: int, gone: Sequence[set[str]], kept: Sequence[set[str]]) -> None:
    """Take the sentences out of a message whose words a memory of ``gone`` has, and none of ``kept``."""
    (text,) = db.execute("SELECT text FROM messages WHERE rowid = ?", (message,)).fetchone()
    sentences = sentences_in(text)
    words = [set(words_of(sentence)) for sentence in sentences]
    left = [
        sentence
        for sentence, said in zip(sentences, words, strict=True)
        if not any(said <= other for other in gone) or any(said <= other for other in kept)
    ]
    if len(left) < len(sentences):
        db.execute("UPDATE messages SET text = ? WHERE rowid = ?", (" ".join(left), message))
        renew_contexts(db, [message])


def _of_conversations_without(db: sqlite3.Connection, messages: Collection[int], gone: Collection[int]) -> set[int]:
    """Messages of the conversations of ``messages`` that are left without any memory when those of ``gone`` go."""
    found = db.execute(
        f"WITH c AS (SELECT DISTINCT cube_id, conversation FROM messages WHERE rowid IN {_ALL}), emptied AS"
        " (SELECT * FROM c WHERE NOT EXISTS (SELECT 1 FROM messages o JOIN provenance p ON p.message_id = o.id"
        " JOIN memories m ON m.id = p.memory_id WHERE o.cube_id = c.cube_id AND o.conversation IS c.conversation"
        f" AND m.text != '' AND m.rowid NOT IN {_ALL}))"
        " SELECT s.rowid FROM emptied e JOIN messages s ON s.cube_id = e.cube_id AND s.conversation IS e.conversation",
        (json.dumps(list(messages)), json.dumps(list(gone))),
    )
    return {int(row) for (row,) in found}


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

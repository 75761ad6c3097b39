"""Owners of messages, inferred from their memories."""

from __future__ import annotations

import sqlite3


def infer_ids(db: sqlite3.Connection, cube_id: str | None = None) -> None:
    """Give messages without ids (of one cube, or of all) the ids of the memories that are from them, else those that
    all the others of their conversation have."""
    where = "WHERE owner IS NULL AND agent IS NULL AND app IS NULL AND (?1 IS NULL OR cube_id = ?1)"
    of_memory = "(SELECT max({0}) FROM memories m JOIN provenance p ON p.memory_id = m.id WHERE p.message_id = s.id)"
    app = "json_extract(m.metadata, '$.app_id')"
    found = ", ".join(of_memory.format(column) for column in ("m.owner", "m.agent", app))
    db.execute(
        f"UPDATE messages AS s SET (owner, agent, app) = (SELECT {found}) {where}",
        (cube_id,),
    )
    only = "CASE WHEN count(DISTINCT {0}) = 1 THEN min({0}) END AS {0}"
    db.execute(
        "UPDATE messages SET owner = c.owner, agent = c.agent, app = c.app FROM (SELECT cube_id AS cube,"
        f" conversation AS said, {', '.join(only.format(name) for name in ('owner', 'agent', 'app'))}"
        " FROM messages WHERE conversation IS NOT NULL GROUP BY cube_id, conversation) c"
        " WHERE messages.owner IS NULL AND messages.agent IS NULL AND messages.app IS NULL"
        " AND (?1 IS NULL OR messages.cube_id = ?1) AND c.cube = messages.cube_id AND c.said = messages.conversation",
        (cube_id,),
    )

"""Names that memories mention, as rows: a graph of memories."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence

from memory.storage.sqlite.rows import LISTED, listed


class SqliteNames:
    """See ``memory.storage.candidates.Names``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def link(self, cube_id: str, number: int, names: Iterable[str]) -> None:
        for name in names:
            self._db.execute("INSERT OR IGNORE INTO entities (cube_id, name) VALUES (?, ?)", (cube_id, name))
            self._db.execute(
                "INSERT OR IGNORE INTO mentions SELECT id, ? FROM entities WHERE cube_id = ? AND name = ?",
                (number, cube_id, name),
            )

    def unlink(self, number: int) -> None:
        found = self._db.execute("SELECT entity FROM mentions WHERE memory = ?", (number,))
        mentioned = [(row["entity"],) for row in found]
        self._db.execute("DELETE FROM mentions WHERE memory = ?", (number,))
        self._db.executemany(
            "DELETE FROM entities WHERE id = ? AND NOT EXISTS (SELECT 1 FROM mentions WHERE entity = entities.id)",
            mentioned,
        )

    def known(self, cube_ids: Sequence[str], names: Collection[str]) -> list[int]:
        rows = self._db.execute(
            f"SELECT id FROM entities WHERE cube_id IN {LISTED} AND name IN {LISTED}",
            (listed(cube_ids), listed(names)),
        )
        return [int(row["id"]) for row in rows]

    def of_memories(self, numbers: Sequence[int]) -> list[int]:
        found = self._db.execute(f"SELECT DISTINCT entity FROM mentions WHERE memory IN {LISTED}", (listed(numbers),))
        return [int(row["entity"]) for row in found]

    def mentions(self, names: Sequence[int], limit: int) -> list[list[int]]:
        return [self._mentions(name, limit) for name in names]

    def _mentions(self, name: int, limit: int) -> list[int]:
        # Counted first: of a name that very many mention, no row is fetched.
        (n,) = self._db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM mentions WHERE entity = ? LIMIT ?)", (name, limit + 1)
        ).fetchone()
        if n > limit:
            return []
        return [number for (number,) in self._db.execute("SELECT memory FROM mentions WHERE entity = ?", (name,))]

"""Candidates of a search as rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from memory.storage.conditions import Condition
from memory.storage.records import Candidate, Former
from memory.storage.sqlite.filters import compiled
from memory.storage.sqlite.rows import LISTED, LIVE, listed, memory_of
from memory.types import Memory

_COMPUTED = {"number": "m.rowid", "length": "length(m.text)"}
_SCORED_BY = ", ".join(_COMPUTED.get(name, f"m.{name}") for name in Candidate._fields)
_EXPIRED = " OR m.status = 'archived' AND m.expires_at IS NOT NULL"


def _in_use(past: bool) -> str:
    return f"(m.status = 'active'{_EXPIRED if past else ''})"


class SqliteCandidates:
    """See ``memory.storage.candidates.Candidates``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def matching(self, cube_ids: Sequence[str], condition: Condition, limit: int, *, past: bool) -> list[int]:
        sql, values = compiled(condition)
        rows = self._db.execute(
            f"SELECT m.rowid FROM memories m WHERE {_in_use(past)} AND m.cube_id IN {LISTED} AND {sql} LIMIT ?",
            (listed(cube_ids), *values, limit),
        )
        return [int(number) for (number,) in rows]

    def of(
        self, numbers: Collection[int], cube_ids: Sequence[str], at: float, condition: Condition, *, past: bool
    ) -> list[Candidate]:
        sql, values = compiled(condition)
        rows = self._db.execute(
            f"SELECT {_SCORED_BY} FROM memories m WHERE m.rowid IN {LISTED} AND {_in_use(past)}"
            f" AND m.cube_id IN {LISTED} AND (m.expires_at IS NULL OR m.expires_at > ?) AND {sql}",
            (listed(numbers), listed(cube_ids), at, *values),
        )
        return [Candidate(*row) for row in rows]

    def former(self, cube_ids: Sequence[str], at: float, condition: Condition, limit: int) -> list[Former]:
        sql, values = compiled(condition)
        rows = self._db.execute(
            f"SELECT {_SCORED_BY}, m.text FROM memories m WHERE m.cube_id IN {LISTED} AND m.status = 'archived'"
            " AND m.replaced_by IS NOT NULL AND (m.slot IS NOT NULL OR m.valid_until IS NOT NULL)"
            f" AND (m.expires_at IS NULL OR m.expires_at > ?) AND {sql}"
            " ORDER BY m.created_at DESC, m.rowid DESC LIMIT ?",
            (listed(cube_ids), at, *values, limit),
        )
        return [Former(Candidate(*row[:-1]), row[-1]) for row in rows]

    def authors(self, cube_id: str) -> set[str]:
        rows = self._db.execute(  # one step down the index each
            "WITH RECURSIVE a(name) AS (SELECT min(author) FROM memories WHERE cube_id = ?1 AND author IS NOT NULL"
            " UNION ALL SELECT (SELECT min(author) FROM memories WHERE cube_id = ?1 AND author > a.name) FROM a"
            " WHERE a.name IS NOT NULL) SELECT name FROM a WHERE name IS NOT NULL LIMIT 200",
            (cube_id,),
        )
        return {row["name"] for row in rows}

    def memories(self, numbers: Collection[int]) -> dict[int, Memory]:
        rows = self._db.execute(f"SELECT rowid AS row, * FROM memories WHERE rowid IN {LISTED}", (listed(numbers),))
        return {row["row"]: memory_of(row) for row in rows}

    def numbers(self, cube_id: str, memory_ids: Sequence[str]) -> list[int]:
        rows = self._db.execute(
            f"SELECT rowid FROM memories WHERE cube_id = ? AND id IN {LISTED}", (cube_id, listed(memory_ids))
        )
        return [number for (number,) in rows]

    def labels(self, cube_id: str, numbers: Collection[int]) -> list[tuple[int, str, str]]:
        rows = self._db.execute(
            f"SELECT rowid AS row, id, version FROM memories WHERE cube_id = ? AND {LIVE} AND rowid IN {LISTED}",
            (cube_id, listed(numbers)),
        )
        return [(row["row"], row["id"], f"{row['id']}@{row['version']}") for row in rows]

"""Vectors as rows: float16, by the memory's rowid."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from memory.storage.records import Unembedded
from memory.storage.sqlite.rows import LISTED, listed
from memory.types import Vector

_DTYPE = np.float16
_AT_ONCE = 10_000


class SqliteVectors:
    """See ``memory.storage.candidates.Vectors``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def put(self, number: int, embedder: str, vector: Vector) -> None:
        blob = np.ascontiguousarray(vector, dtype=_DTYPE).tobytes()  # the error is under 1e-3
        self._db.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", (number, embedder, blob, time.time()))

    def remove(self, number: int) -> None:
        self._db.execute("DELETE FROM vectors WHERE memory = ?", (number,))

    def of_cube(self, cube_id: str) -> Iterator[list[tuple[int, Vector]]]:
        rows = self._db.execute(
            "SELECT v.memory, v.vector FROM vectors v JOIN memories m ON m.rowid = v.memory"
            " WHERE m.cube_id = ? AND m.status = 'active' ORDER BY v.memory",
            (cube_id,),
        )
        while batch := rows.fetchmany(_AT_ONCE):
            yield [(row["memory"], vector_of(row["vector"])) for row in batch]

    def by_memory(self, cube_id: str) -> dict[str, Vector]:
        rows = self._db.execute(
            "SELECT m.id, v.vector FROM vectors v JOIN memories m ON m.rowid = v.memory WHERE m.cube_id = ?"
            " AND m.status = 'active'",
            (cube_id,),
        )
        return {row["id"]: vector_of(row["vector"]) for row in rows}

    def of(self, numbers: Iterable[int]) -> Iterator[tuple[int, Vector]]:
        for number in numbers:
            row = self._db.execute("SELECT vector FROM vectors WHERE memory = ?", (number,)).fetchone()
            if row is not None:
                yield number, vector_of(row["vector"])

    def known(self, numbers: Collection[int]) -> list[int]:
        rows = self._db.execute(f"SELECT memory FROM vectors WHERE memory IN {LISTED}", (listed(numbers),))
        return [number for (number,) in rows]

    def numbers(self, cube_id: str) -> list[int]:
        rows = self._db.execute("SELECT rowid FROM memories WHERE cube_id = ? AND status = 'active'", (cube_id,))
        return [number for (number,) in rows]

    def written_since(self, cube_id: str, at: float) -> set[int]:
        rows = self._db.execute(
            "SELECT v.memory FROM vectors v INDEXED BY vectors_written JOIN memories m ON m.rowid = v.memory"
            " WHERE v.written_at >= ? AND m.cube_id = ? AND m.status = 'active'",
            (at, cube_id),
        )
        return {number for (number,) in rows}

    def missing(self, cube_id: str, embedder: str) -> list[Unembedded]:
        rows = self._db.execute(
            # Those that are missing are found from indexes alone: of a large cube, no other rows are read.
            "SELECT m.rowid AS row, m.text, a.text AS before1, b.text AS before2 FROM memories m"
            " LEFT JOIN memories a ON a.id = m.follows LEFT JOIN memories b ON b.id = a.follows"
            " WHERE m.rowid IN (SELECT x.rowid FROM memories x LEFT JOIN vectors v INDEXED BY vectors_written"
            " ON v.memory = x.rowid WHERE x.cube_id = ? AND x.status = 'active' AND v.embedder IS NOT ?)"
            " ORDER BY m.rowid",
            (cube_id, embedder),
        )
        return [
            Unembedded(row["row"], row["text"], [text for text in (row["before1"], row["before2"]) if text])
            for row in rows
        ]

    def expired(self, cube_ids: Sequence[str], at: float, dim: int, limit: int) -> dict[int, Vector]:
        rows = self._db.execute(
            "SELECT v.memory, v.vector FROM memories m JOIN vectors v ON v.memory = m.rowid WHERE m.expires_at > ?"
            f" AND m.status = 'archived' AND m.cube_id IN {LISTED} AND length(v.vector) = ?"
            " ORDER BY m.expires_at LIMIT ?",
            (at, listed(cube_ids), np.dtype(_DTYPE).itemsize * dim, limit),
        )
        return {row["memory"]: vector_of(row["vector"]) for row in rows}


def vector_of(blob: bytes) -> Vector:
    """Return a stored vector as float32 [dim]."""
    return np.frombuffer(blob, _DTYPE).astype(np.float32)

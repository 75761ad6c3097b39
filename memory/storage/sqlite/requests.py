"""Requests with keys as rows. Triggers (``memory.storage.sqlite.migrations``) remove their replies with what these may
quote."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from memory.storage.records import KeyedRequest


class SqliteRequests:
    """See ``memory.storage.service.Requests``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def find(self, tenant: str, key: str) -> KeyedRequest | None:
        row = self._db.execute("SELECT * FROM keyed_requests WHERE tenant = ? AND key = ?", (tenant, key)).fetchone()
        return None if row is None else _request_of(row)

    def get(self, number: int) -> KeyedRequest | None:
        row = self._db.execute("SELECT * FROM keyed_requests WHERE seq = ?", (number,)).fetchone()
        return None if row is None else _request_of(row)

    def insert(self, tenant: str, key: str, request: str, at: float, *, quotes: bool) -> int:
        cursor = self._db.execute(
            "INSERT INTO keyed_requests (tenant, key, request, at, quotes) VALUES (?, ?, ?, ?, ?)",
            (tenant, key, request, at, quotes),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def answer(self, number: int, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
        self._db.execute(
            "UPDATE keyed_requests SET status = ?, headers = ?, body = ?, nbytes = ? WHERE seq = ?",
            (status, json.dumps(dict(headers)), body, len(body or b""), number),
        )

    def note_cubes(self, number: int, cube_ids: Iterable[str]) -> None:
        pairs = [(cube, number) for cube in cube_ids]
        self._db.executemany("INSERT OR IGNORE INTO keyed_request_cubes VALUES (?, ?)", pairs)

    def remove(self, numbers: Sequence[int]) -> None:
        given = [(number,) for number in numbers]
        self._db.executemany("DELETE FROM keyed_request_cubes WHERE request = ?", given)
        self._db.executemany("DELETE FROM keyed_requests WHERE seq = ?", given)

    def empty(self, numbers: Sequence[int]) -> None:
        given = [(number,) for number in numbers]
        self._db.executemany("DELETE FROM keyed_request_cubes WHERE request = ?", given)
        self._db.executemany(
            "UPDATE keyed_requests SET gone = 1, headers = NULL, body = NULL, nbytes = 0 WHERE seq = ?", given
        )

    def older(self, at: float) -> list[int]:
        return [row["seq"] for row in self._db.execute("SELECT seq FROM keyed_requests WHERE at < ?", (at,))]

    def sizes(self) -> list[tuple[str, int, int]]:
        rows = self._db.execute(
            "SELECT tenant, count(*) AS n, sum(nbytes) AS size FROM keyed_requests GROUP BY tenant"
        ).fetchall()
        return [(row["tenant"], row["n"], row["size"]) for row in rows]

    def beyond_count(self, tenant: str, limit: int) -> list[int]:
        return self._beyond(tenant, "row_number()", limit)

    def beyond_bytes(self, tenant: str, limit: int) -> list[int]:
        return self._beyond(tenant, "sum(nbytes)", limit)

    def _beyond(self, tenant: str, measure: str, limit: int) -> list[int]:
        rows = self._db.execute(
            f"SELECT seq FROM (SELECT seq, {measure} OVER (ORDER BY seq DESC) AS n FROM keyed_requests"
            " WHERE tenant = ?) WHERE n > ?",
            (tenant, limit),
        )
        return [row["seq"] for row in rows]


def _request_of(row: sqlite3.Row) -> KeyedRequest:
    return KeyedRequest(
        row["seq"],
        row["request"],
        row["at"],
        bool(row["wrote"]),
        bool(row["gone"]),
        row["status"],
        None if row["headers"] is None else json.loads(row["headers"]),
        row["body"],
    )

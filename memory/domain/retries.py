"""Requests that carry a key of their client's, so that a retry does nothing twice: what became of the first of them.

A request is one of these, by its key:

    new                     a row is made for it (``KeyedRequests.claim``); every transaction it makes marks the row
    answered                its reply is kept, and given again
    failed, wrote nothing   its row is gone: it may be tried again
    cut off, wrote nothing  so it may, at the next start
    failed or cut off, wrote something   refused (``CutOff``): nobody can tell what is missing

Of key and request there are digests only. Replies may hold text of memories, and so they go when anything in a cube
that the request looked into is forgotten (triggers of the database's see to that), and after a day.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass

from memory.errors import CutOff, KeyReused, ReplyGone, StillRunning
from memory.storage.sqlite.database import Database, Ticket

KEPT_S = 86_400.0
MAX_KEYS = 50_000
MAX_REPLY_BYTES = 256 * 1024
MAX_TENANT_BYTES = 16 << 20
_SWEEP_EVERY = 256


@dataclass(frozen=True)
class Reply:
    """A reply as it was sent: status, the headers that matter (lower-case names), body."""

    status: int
    headers: dict[str, str]
    body: bytes


class KeyedRequests:
    """The requests with keys in one side store's database. Of a tenant, the last ``MAX_KEYS`` are kept for ``KEPT_S``
    seconds, and ``MAX_TENANT_BYTES`` of their replies, none of which has more than ``MAX_REPLY_BYTES``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open: set[int] = set()
        self._claims = 0

    def claim(
        self, tenant: str, key: str, request: str, *, quotes: bool = True, repeatable: bool = False
    ) -> Ticket | Reply:
        """The right to do a request, or the reply that it got. ``key`` and ``request`` are digests; ``quotes``: the
        reply may hold text of memories; ``repeatable``: doing it again after it was cut off does nothing twice. Raises
        ``KeyReused``, ``StillRunning``, ``CutOff``, ``ReplyGone``, ``StorageFull``."""
        self._claims += 1
        if self._claims % _SWEEP_EVERY == 0:
            self.sweep()
        now = time.time()
        with self._database.write() as db:
            row = db.execute("SELECT * FROM keyed_requests WHERE tenant = ? AND key = ?", (tenant, key)).fetchone()
            if row is not None and (row["at"] < now - KEPT_S or self._is_free(row, request, repeatable)):
                _remove(db, [row["seq"]])
                row = None
            if row is None:
                cursor = db.execute(
                    "INSERT INTO keyed_requests (tenant, key, request, at, quotes) VALUES (?, ?, ?, ?, ?)",
                    (tenant, key, request, now, quotes),
                )
                assert cursor.lastrowid is not None
                self._open.add(cursor.lastrowid)
                return Ticket(self._database, cursor.lastrowid)
        return self._answered(row, request)

    def _is_free(self, row: sqlite3.Row, request: str, repeatable: bool) -> bool:
        """Tell if the request has failed or was cut off, and the key may be used again."""
        if row["status"] is not None or row["seq"] in self._open:
            return False
        return not row["wrote"] or (repeatable and row["request"] == request)

    def _answered(self, row: sqlite3.Row, request: str) -> Reply:
        if row["request"] != request:
            raise KeyReused
        if row["status"] is None:
            raise StillRunning if row["seq"] in self._open else CutOff
        if row["body"] is None:
            raise ReplyGone(row["status"])
        return Reply(row["status"], json.loads(row["headers"]), row["body"])

    def finish(self, given: Ticket, reply: Reply) -> None:
        """Keep the reply to a request; of a failed one that wrote nothing, nothing is kept. Raises ``StorageFull``."""
        self._open.discard(given.seq)
        with self._database.write() as db:
            row = db.execute("SELECT wrote, gone FROM keyed_requests WHERE seq = ?", (given.seq,)).fetchone()
            if row is None:  # it took longer than keys are kept
                return
            if reply.status >= 400 and not row["wrote"]:
                _remove(db, [given.seq])
                return
            if reply.status >= 500:  # it stays without one: ``CutOff``
                return
            kept = None if row["gone"] or len(reply.body) > MAX_REPLY_BYTES else reply.body
            db.execute(
                "UPDATE keyed_requests SET status = ?, headers = ?, body = ?, nbytes = ? WHERE seq = ?",
                (reply.status, json.dumps(reply.headers), kept, len(kept or b""), given.seq),
            )
            if kept is not None:
                pairs = [(cube, given.seq) for cube in given.cubes]
                db.executemany("INSERT OR IGNORE INTO keyed_request_cubes VALUES (?, ?)", pairs)

    def fail(self, given: Ticket) -> None:
        """Say that a request has failed without a reply."""
        self.finish(given, Reply(500, {}, b""))

    def sweep(self, now: float | None = None) -> None:
        """Remove what is older than a day, and of each tenant's what is beyond the bounds, the oldest first."""
        limit = (time.time() if now is None else now) - KEPT_S
        with self._database.write() as db:
            old = db.execute("SELECT seq FROM keyed_requests WHERE at < ?", (limit,)).fetchall()
            _remove(db, [row["seq"] for row in old])
            sums = "SELECT tenant, count(*) AS n, sum(nbytes) AS size FROM keyed_requests GROUP BY tenant"
            for row in db.execute(sums).fetchall():
                if row["n"] > MAX_KEYS:
                    _remove(db, _beyond(db, row["tenant"], "row_number()", MAX_KEYS))
                if row["size"] > MAX_TENANT_BYTES:
                    _empty(db, _beyond(db, row["tenant"], "sum(nbytes)", MAX_TENANT_BYTES))


def _beyond(db: sqlite3.Connection, tenant: str, measure: str, limit: int) -> list[int]:
    """The tenant's requests that are older than those that ``limit`` has room for."""
    rows = db.execute(
        f"SELECT seq FROM (SELECT seq, {measure} OVER (ORDER BY seq DESC) AS n FROM keyed_requests WHERE tenant = ?)"
        " WHERE n > ?",
        (tenant, limit),
    )
    return [row["seq"] for row in rows]


def _empty(db: sqlite3.Connection, seqs: list[int]) -> None:
    db.executemany("DELETE FROM keyed_request_cubes WHERE request = ?", [(seq,) for seq in seqs])
    db.executemany(
        "UPDATE keyed_requests SET gone = 1, headers = NULL, body = NULL, nbytes = 0 WHERE seq = ?",
        [(seq,) for seq in seqs],
    )


def _remove(db: sqlite3.Connection, seqs: list[int]) -> None:
    db.executemany("DELETE FROM keyed_request_cubes WHERE request = ?", [(seq,) for seq in seqs])
    db.executemany("DELETE FROM keyed_requests WHERE seq = ?", [(seq,) for seq in seqs])

"""Durable jobs: rows that survive the process, are leased by one worker at a time, and are done once in effect."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from memory.errors import JobEnded, NotFound
from memory.storage.sqlite.database import Database

JobStatus = Literal["waiting", "running", "completed", "failed", "cancelled"]
LEASE_S = 60.0
MAX_ATTEMPTS = 5
_KEPT_S = 7 * 86_400.0


@dataclass(frozen=True)
class Job:
    """One piece of work. Times are Unix seconds; ``result`` once completed, ``error`` once failed."""

    id: str
    tenant: str
    kind: str
    payload: dict[str, Any]
    status: JobStatus
    attempts: int
    created_at: float
    finished_at: float | None = None
    result: Any = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


class JobQueue:
    """The jobs in one side store's database, first in, first out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, tenant: str, kind: str, payload: dict[str, Any], id: str | None = None) -> Job:
        """Queue a job; it is on disk when this returns. An ``id`` that the tenant has used is the same job."""
        id = id or "job_" + secrets.token_hex(12)
        now = time.time()
        with self._database.write() as db:
            known = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
            if known is not None and known["tenant"] == tenant:
                return _job_of(known)
            if known is not None:
                id = "job_" + secrets.token_hex(12)
            db.execute(
                "INSERT INTO jobs (id, tenant, kind, payload, status, attempts, created_at, not_before)"
                " VALUES (?, ?, ?, ?, 'waiting', 0, ?, ?)",
                (id, tenant, kind, json.dumps(payload), now, now),
            )
        return Job(id, tenant, kind, payload, "waiting", 0, now)

    def get(self, tenant: str, id: str) -> Job:
        """Raises ``NotFound``."""
        with self._database.read() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ? AND tenant = ?", (id, tenant)).fetchone()
        if row is None:
            raise NotFound("job", id)
        return _job_of(row)

    def all(self, tenant: str, *, open_only: bool = False, limit: int = 100) -> list[Job]:
        """The tenant's jobs, the newest first."""
        only = " AND status IN ('waiting', 'running')" if open_only else ""
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT * FROM jobs WHERE tenant = ?{only} ORDER BY seq DESC LIMIT ?",
                (tenant, limit),
            ).fetchall()
        return [_job_of(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Number of jobs by status, of all tenants."""
        with self._database.read() as db:
            rows = db.execute("SELECT status, count(*) AS n FROM jobs GROUP BY status").fetchall()
        return {row["status"]: row["n"] for row in rows}

    def cancel(self, tenant: str, id: str) -> Job:
        """Cancel a job that has not begun. Raises ``NotFound``."""
        with self._database.write() as db:
            db.execute(
                "UPDATE jobs SET status = 'cancelled', finished_at = ?, payload = '{}'"
                " WHERE id = ? AND tenant = ? AND status = 'waiting'",
                (time.time(), id, tenant),
            )
        return self.get(tenant, id)

    # -- for workers -----------------------------------------------------------------------------------------

    def take(self, lease_s: float = LEASE_S) -> Job | None:
        """Lease the first job that is waiting, or whose worker has stopped renewing its lease."""
        now = time.time()
        with self._database.write() as db:
            row = db.execute(
                "SELECT * FROM jobs WHERE (status = 'waiting' AND not_before <= ?1)"
                " OR (status = 'running' AND lease_until < ?1) ORDER BY seq LIMIT 1",
                (now,),
            ).fetchone()
            if row is None:
                return None
            if row["attempts"] >= MAX_ATTEMPTS:
                self._end(db, row["id"], "failed", error="its workers died, too many times")
                return None
            db.execute(
                "UPDATE jobs SET status = 'running', attempts = attempts + 1, lease_until = ? WHERE id = ?",
                (now + lease_s, row["id"]),
            )
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone()
        return _job_of(row)

    def release_all(self) -> int:
        """Make jobs that were running wait again: at start, when no other process can be at them."""
        with self._database.write() as db:
            return db.execute(
                "UPDATE jobs SET status = 'waiting', lease_until = NULL WHERE status = 'running'"
            ).rowcount

    def renew(self, id: str, lease_s: float = LEASE_S) -> None:
        """Keep a lease."""
        with self._database.write() as db:
            db.execute(
                "UPDATE jobs SET lease_until = ? WHERE id = ? AND status = 'running'", (time.time() + lease_s, id)
            )

    def finishing(self, id: str) -> Callable[[sqlite3.Connection, Any], None]:
        """Completes a job within the transaction that does its work: both are kept, or neither. Raises ``JobEnded``
        when it has ended meanwhile."""

        def finish(db: sqlite3.Connection, result: Any) -> None:
            if not self._end(db, id, "completed", result=result):
                raise JobEnded("the job was ended by something else")

        return finish

    def complete(self, id: str, result: Any) -> None:
        """Say that a job is done."""
        with self._database.write() as db:
            self._end(db, id, "completed", result=result)

    def fail(self, id: str, error: str, *, again_in_s: float | None = None) -> None:
        """Say that a job failed: for good, or to be tried again after a while (while attempts are left)."""
        with self._database.write() as db:
            row = db.execute("SELECT attempts FROM jobs WHERE id = ?", (id,)).fetchone()
            if again_in_s is None or row is None or row["attempts"] >= MAX_ATTEMPTS:
                self._end(db, id, "failed", error=error)
                return
            db.execute(
                "UPDATE jobs SET status = 'waiting', lease_until = NULL, not_before = ?, error = ? WHERE id = ?",
                (time.time() + again_in_s, error, id),
            )

    def sweep(self, now: float | None = None) -> int:
        """Remove jobs that ended a week ago."""
        limit = (time.time() if now is None else now) - _KEPT_S
        with self._database.write() as db:
            return db.execute("DELETE FROM jobs WHERE finished_at < ?", (limit,)).rowcount

    @staticmethod
    def _end(
        db: sqlite3.Connection, id: str, status: JobStatus, *, result: Any = None, error: str | None = None
    ) -> bool:
        """End it; tells if it was open."""
        # The payload holds messages: they are kept as messages now, or not at all.
        ended = db.execute(
            "UPDATE jobs SET status = ?, result = ?, error = ?, finished_at = ?, lease_until = NULL, payload = '{}'"
            " WHERE id = ? AND status NOT IN ('completed', 'failed', 'cancelled')",
            (status, json.dumps(result), error, time.time(), id),
        )
        return ended.rowcount == 1


def end_messages(db: sqlite3.Connection, tenant: str, concerned: Callable[[str, dict[str, str | None]], bool]) -> None:
    """End a tenant's open jobs that add messages which are to be deleted: ``concerned`` says so of a cube's id and the
    ids owner, agent, session and app. One that is being done comes to nothing (see ``JobQueue.finishing``)."""
    rows = db.execute(
        "SELECT id, payload FROM jobs WHERE tenant = ? AND kind = 'messages' AND status IN ('waiting', 'running')",
        (tenant,),
    ).fetchall()
    for row in rows:
        payload = json.loads(row["payload"])
        said = payload["said"]
        ids = {name: said[name] for name in ("owner", "agent", "session")}
        if concerned(payload["cube"], {**ids, "app": (said["metadata"] or {}).get("app_id")}):
            JobQueue._end(db, row["id"], "failed", error="its messages were deleted")


def _job_of(row: sqlite3.Row) -> Job:
    return Job(
        row["id"],
        row["tenant"],
        row["kind"],
        json.loads(row["payload"]),
        row["status"],
        row["attempts"],
        row["created_at"],
        row["finished_at"],
        json.loads(row["result"]) if row["result"] else None,
        row["error"],
    )

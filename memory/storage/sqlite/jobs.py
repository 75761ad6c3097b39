"""Jobs as rows."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from memory.types import Job, JobStatus

_OPEN = "status IN ('waiting', 'running')"


class SqliteJobs:
    """See ``memory.storage.service.Jobs``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(self, job: Job) -> None:
        self._db.execute(
            "INSERT INTO jobs (id, tenant, kind, payload, status, attempts, created_at, not_before)"
            " VALUES (?, ?, ?, ?, 'waiting', 0, ?, ?)",
            (job.id, job.tenant, job.kind, json.dumps(job.payload), job.created_at, job.created_at),
        )

    def get(self, id: str, tenant: str | None = None) -> Job | None:
        row = self._db.execute(
            "SELECT * FROM jobs WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)", (id, tenant)
        ).fetchone()
        return None if row is None else _job_of(row)

    def of_tenant(self, tenant: str, *, open_only: bool, limit: int) -> list[Job]:
        only = f" AND {_OPEN}" if open_only else ""
        rows = self._db.execute(f"SELECT * FROM jobs WHERE tenant = ?{only} ORDER BY seq DESC LIMIT ?", (tenant, limit))
        return [_job_of(row) for row in rows]

    def open_payloads(self, tenant: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
        rows = self._db.execute(
            f"SELECT id, payload FROM jobs WHERE tenant = ? AND kind = ? AND {_OPEN}", (tenant, kind)
        ).fetchall()
        return [(row["id"], json.loads(row["payload"])) for row in rows]

    def counts(self) -> dict[str, int]:
        rows = self._db.execute("SELECT status, count(*) AS n FROM jobs GROUP BY status")
        return {row["status"]: row["n"] for row in rows}

    def first(self, now: float) -> Job | None:
        row = self._db.execute(
            "SELECT * FROM jobs WHERE (status = 'waiting' AND not_before <= ?1)"
            " OR (status = 'running' AND lease_until < ?1) ORDER BY seq LIMIT 1",
            (now,),
        ).fetchone()
        return None if row is None else _job_of(row)

    def lease(self, id: str, until: float) -> None:
        self._db.execute(
            "UPDATE jobs SET status = 'running', attempts = attempts + 1, lease_until = ? WHERE id = ?", (until, id)
        )

    def release_all(self) -> int:
        return self._db.execute(
            "UPDATE jobs SET status = 'waiting', lease_until = NULL WHERE status = 'running'"
        ).rowcount

    def cancel(self, tenant: str, id: str) -> None:
        self._db.execute(
            "UPDATE jobs SET status = 'cancelled', finished_at = ?, payload = '{}'"
            " WHERE id = ? AND tenant = ? AND status = 'waiting'",
            (time.time(), id, tenant),
        )

    def retry(self, id: str, not_before: float, error: str) -> None:
        self._db.execute(
            "UPDATE jobs SET status = 'waiting', lease_until = NULL, not_before = ?, error = ? WHERE id = ?",
            (not_before, error, id),
        )

    def end(self, id: str, status: JobStatus, *, result: Any = None, error: str | None = None) -> bool:
        # The payload holds messages: they are kept as messages now, or not at all.
        ended = self._db.execute(
            "UPDATE jobs SET status = ?, result = ?, error = ?, finished_at = ?, lease_until = NULL, payload = '{}'"
            " WHERE id = ? AND status NOT IN ('completed', 'failed', 'cancelled')",
            (status, json.dumps(result), error, time.time(), id),
        )
        return ended.rowcount == 1

    def remove_ended(self, before: float) -> int:
        return self._db.execute("DELETE FROM jobs WHERE finished_at < ?", (before,)).rowcount


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

"""Durable jobs: they survive the process, are leased by one worker at a time, and are done once in effect."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memory.errors import JobEnded, NotFound
from memory.storage.base import Storage, Transaction
from memory.types import Job

LEASE_S = 60.0
MAX_ATTEMPTS = 5
_KEPT_S = 7 * 86_400.0


class JobQueue:
    """The jobs of one side store, first in, first out."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def put(self, tenant: str, kind: str, payload: dict[str, Any], id: str | None = None) -> Job:
        """Queue a job; it is on disk when this returns. An ``id`` that the tenant has used is the same job."""
        job = Job(id or _new_id(), tenant, kind, payload, "waiting", 0, time.time())
        with self._storage.write() as tx:
            known = tx.jobs.get(job.id)
            if known is not None and known.tenant == tenant:
                return known
            if known is not None:
                job = replace(job, id=_new_id())
            tx.jobs.insert(job)
        return job

    def get(self, tenant: str, id: str) -> Job:
        """Return a tenant's job. Raises ``NotFound``."""
        with self._storage.read() as tx:
            job = tx.jobs.get(id, tenant)
        if job is None:
            raise NotFound("job", id)
        return job

    def all(self, tenant: str, *, open_only: bool = False, limit: int = 100) -> list[Job]:
        """Return the tenant's jobs, the newest first."""
        with self._storage.read() as tx:
            return tx.jobs.of_tenant(tenant, open_only=open_only, limit=limit)

    def counts(self) -> dict[str, int]:
        """Count jobs by status, of all tenants."""
        with self._storage.read() as tx:
            return tx.jobs.counts()

    def cancel(self, tenant: str, id: str) -> Job:
        """Cancel a job that has not begun. Raises ``NotFound``."""
        with self._storage.write() as tx:
            tx.jobs.cancel(tenant, id)
        return self.get(tenant, id)

    # -- for workers -----------------------------------------------------------------------------------------

    def take(self, lease_s: float = LEASE_S) -> Job | None:
        """Lease the first job that is waiting, or whose lease has ended."""
        now = time.time()
        with self._storage.write() as tx:
            job = tx.jobs.first(now)
            if job is None:
                return None
            if job.attempts >= MAX_ATTEMPTS:
                tx.jobs.end(job.id, "failed", error="its workers died, too many times")
                return None
            tx.jobs.lease(job.id, now + lease_s)
        return replace(job, status="running", attempts=job.attempts + 1)

    def release_all(self) -> int:
        """Make jobs that were running wait again: at start, when no other process can be at them."""
        with self._storage.write() as tx:
            return tx.jobs.release_all()

    def finishing(self, id: str) -> Callable[[Transaction, Any], None]:
        """Return what completes a job within the transaction that does its work: both are kept, or neither. It raises
        ``JobEnded`` when the job has ended meanwhile."""

        def finish(tx: Transaction, result: Any) -> None:
            if not tx.jobs.end(id, "completed", result=result):
                raise JobEnded("the job was ended by something else")

        return finish

    def complete(self, id: str, result: Any) -> None:
        """Say that a job is done."""
        with self._storage.write() as tx:
            tx.jobs.end(id, "completed", result=result)

    def fail(self, id: str, error: str, *, again_in_s: float | None = None) -> None:
        """Say that a job failed: for good, or to be tried again after a while (while attempts are left)."""
        with self._storage.write() as tx:
            job = tx.jobs.get(id)
            if again_in_s is None or job is None or job.attempts >= MAX_ATTEMPTS:
                tx.jobs.end(id, "failed", error=error)
            else:
                tx.jobs.retry(id, time.time() + again_in_s, error)

    def sweep(self, now: float | None = None) -> int:
        """Remove jobs that ended a week ago."""
        limit = (time.time() if now is None else now) - _KEPT_S
        with self._storage.write() as tx:
            return tx.jobs.remove_ended(limit)


def end_messages(tx: Transaction, tenant: str, concerned: Callable[[str, dict[str, str | None]], bool]) -> None:
    """End a tenant's open jobs that add messages which are to be deleted: ``concerned`` says so of a cube's id and the
    ids owner, agent, session and app. One that is being done comes to nothing (see ``JobQueue.finishing``)."""
    for id, payload in tx.jobs.open_payloads(tenant, "messages"):
        said = payload["said"]
        ids = {name: said[name] for name in ("owner", "agent", "session")}
        if concerned(payload["cube"], {**ids, "app": (said["metadata"] or {}).get("app_id")}):
            tx.jobs.end(id, "failed", error="its messages were deleted")


def _new_id() -> str:
    return "job_" + secrets.token_hex(12)

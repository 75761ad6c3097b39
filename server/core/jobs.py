"""Durable jobs: putting them, asking for them, and the worker that does them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from memory import Job, JobQueue
from scheduler import JobRunner

Handler = Callable[[Job], Awaitable[None]]
Chores = Callable[[], Awaitable[None]]


class JobService:
    """Async, for the event loop; the queue's blocking work runs in threads."""

    def __init__(self, queue: JobQueue, handlers: Mapping[str, Handler], chores: Chores) -> None:
        self._queue = queue
        self._runner = JobRunner(queue, handlers, chores)

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._runner.start()

    async def close(self) -> None:
        """Stop. A job that is being done is done again at the next start."""
        await self._runner.close()

    @property
    def failures(self) -> int:
        """Count how often a job has failed since the start."""
        return self._runner.failures

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are, by status. Blocks."""
        return self._queue.counts()

    async def put(self, tenant: str, kind: str, payload: dict[str, Any], id: str | None = None) -> Job:
        """Put a job, whose payload is JSON's types; one of a known ``id`` is put once."""
        job = await asyncio.to_thread(self._queue.put, tenant, kind, payload, id)
        self._runner.wake()
        return job

    async def get(self, tenant: str, id: str) -> Job:
        """Return a job. Raises ``NotFound``."""
        return await asyncio.to_thread(self._queue.get, tenant, id)

    async def all(self, tenant: str, limit: int) -> list[Job]:
        """Return the tenant's jobs, the newest first."""
        return await asyncio.to_thread(lambda: self._queue.all(tenant, limit=limit))

    async def cancel(self, tenant: str, id: str) -> Job:
        """Cancel a job that has not begun. Raises ``NotFound``."""
        return await asyncio.to_thread(self._queue.cancel, tenant, id)

    async def wait(self, tenant: str, id: str, timeout_s: float) -> Job:
        """Return a job once it has ended, or ``timeout_s`` seconds are up. Raises ``NotFound``."""
        return await self._runner.wait(tenant, id, timeout_s)

"""The worker of the durable jobs: one at a time, in order, beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from memory import EmbedderError, Job, JobEnded, JobQueue, MemoryStoreError, StorageFull
from scheduler.background import Worker

log = logging.getLogger(__name__)

# A handler does its job's work in full and completes it itself, in the transaction of the work where there is one.
Handler = Callable[[Job], Awaitable[None]]
Chore = Callable[[], Awaitable[None]]

CHORES_EVERY_S = 30.0
_RETRY_S = 2.0
_LOOK_EVERY_S = 1.0


class JobRunner:
    """Works off a queue in an asyncio task, with chores in between. Not thread-safe: lives in the event loop.

    A job that was cut off (a kill, a power cut) is done again from its start: handlers write all or nothing.
    """

    def __init__(self, queue: JobQueue, handlers: Mapping[str, Handler], chores: Chore | None = None) -> None:
        self._queue = queue
        self._handlers = handlers
        self._chores = chores
        self._ended = asyncio.Condition()
        self._chores_at: float | None = None  # what fell due while no server ran is done first
        self._worker = Worker("jobs", self._step, self._step_failed, look_every_s=_LOOK_EVERY_S)
        self._started = False
        self.failures = 0

    def start(self) -> None:
        """Begin; what was running when the process ended waits again."""
        self._queue.release_all()
        self._started = True
        self._worker.wake()

    def wake(self) -> None:
        """Say that there is a new job."""
        if self._started:
            self._worker.wake()

    async def wait(self, tenant: str, id: str, timeout_s: float) -> Job:
        """Return the job, once it has ended or the time is up. Raises ``NotFound``."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            async with self._ended:
                job = await asyncio.to_thread(self._queue.get, tenant, id)
                left = deadline - asyncio.get_running_loop().time()
                if job.ended or left <= 0:
                    return job
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), min(left, _LOOK_EVERY_S))

    async def _step(self) -> bool:
        """Do the chores that are due, or else one job. False when there was none."""
        now = asyncio.get_running_loop().time()
        if self._chores is not None and (self._chores_at is None or now >= self._chores_at):
            self._chores_at = now + CHORES_EVERY_S
            await self._chores()
            return True
        job = await asyncio.to_thread(self._queue.take)
        if job is None:
            return False
        await self._work(job)
        async with self._ended:
            self._ended.notify_all()
        return True

    def _step_failed(self) -> str:
        # A disk that is full now must not end the worker for ever.
        self.failures += 1
        return "the worker of jobs failed"

    async def _work(self, job: Job) -> None:
        handler = self._handlers.get(job.kind)
        again: float | None = None
        try:
            if handler is None:
                raise ValueError(f"there is no worker for jobs of kind '{job.kind}'")
            await handler(job)
            return
        except JobEnded:
            return
        except (EmbedderError, StorageFull) as error:  # may be over soon
            error_text, again = str(error), _RETRY_S * 2**job.attempts
        except MemoryStoreError as error:
            error_text = str(error)
        except Exception:
            # The worker's edge: one job that fails must not stop those behind it.
            log.exception("job %s failed", job.id)
            error_text = "an internal error; the log has it"
        self.failures += 1
        await asyncio.to_thread(self._fail, job, error_text, again)

    def _fail(self, job: Job, error: str, again: float | None) -> None:
        self._queue.fail(job.id, error, again_in_s=again)

    async def close(self) -> None:
        """Stop; a job that is being done is left as it is, and done again at the next start."""
        self._started = False
        await self._worker.close()

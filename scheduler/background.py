"""A worker in the event loop: one task that does, step by step, what others have left for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[bool]]
"""Does one thing. False when there was nothing to do."""


class Worker:
    """Runs a step again and again, beside the requests, until there is nothing to do; then it sleeps until it is woken.

    A step that fails is logged and does not end the worker. Not thread-safe: lives in the event loop.

    Parameters
    ----------
    failed: counts a step that has failed, and says what is logged of it.
    look_every_s: seconds after which a sleeping worker looks again by itself; it also sleeps after a step that has
        failed. None: it does not look by itself, and goes on at once.
    """

    def __init__(self, name: str, step: Step, failed: Callable[[], str], *, look_every_s: float | None = None) -> None:
        self._name = name
        self._step = step
        self._failed = failed
        self._look_every_s = look_every_s
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Have the worker look: there is something to do."""
        self._woken.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=self._name)

    @property
    def is_at_work(self) -> bool:
        """True while there is something to do, as far as is known; always, of one that looks by itself."""
        return self._task is not None and not self._task.done()

    async def settled(self) -> None:
        """Wait until there is nothing to do. For a worker that does not look by itself."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Stop, in the middle of a step where need be; what is left to do is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            if await self._guarded():
                continue
            if self._look_every_s is None:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._look_every_s)

    async def _guarded(self) -> bool:
        try:
            return await self._step()
        except Exception:
            # The worker's edge: work in the background that fails costs speed, not answers.
            log.exception(self._failed())
            return self._look_every_s is None

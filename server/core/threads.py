"""Threads for what may wait for a model, apart from those that all requests need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from memory import MemoryStore

T = TypeVar("T")
_THREADS = 4


class ModelThreads:
    """Does blocking work in threads: what may wait for a model, in few ones of its own."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._own = ThreadPoolExecutor(_THREADS, "extract")

    def close(self) -> None:
        """Begin nothing more."""
        self._own.shutdown(wait=False, cancel_futures=True)

    async def do(self, work: Callable[[], T], *, waits: bool = False) -> T:
        """Do work that ``waits`` for a model, or adds what a model may judge."""
        if not waits and self._store.judging.given is None:
            return await asyncio.to_thread(work)
        return await asyncio.get_running_loop().run_in_executor(self._own, copy_context().run, work)

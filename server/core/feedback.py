"""Feedback: what somebody says of memories, and what it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from memory import FeedbackOutcome, MemoryStore
from server.core.cubes import CubeService
from server.core.invalidation import Invalidation
from server.core.threads import ModelThreads

_LOOKED_AT = 1_000


class FeedbackService:
    """Async, for the event loop; the side store's blocking work runs in threads."""

    def __init__(
        self, store: MemoryStore, cubes: CubeService, threads: ModelThreads, invalidation: Invalidation
    ) -> None:
        self._store = store
        self._cubes = cubes
        self._threads = threads
        self._invalidation = invalidation

    async def give(
        self,
        tenant: str,
        cube: str | None,
        text: str,
        *,
        memory_ids: Sequence[str] = (),
        corrected: str | None = None,
        at: float | None = None,
    ) -> FeedbackOutcome:
        """Do what somebody says of memories (without a cube: of the first one's), and remove what was computed from
        those that it changed. Raises ``NotFound``, ``Forbidden``, ``InvalidMemory``, ``EmbedderError``."""

        def give() -> FeedbackOutcome:
            if cube is None and memory_ids:
                id = self._store.get(tenant, memory_ids[0]).cube_id
            else:
                id = self._store.default_cube(tenant).id if cube is None else cube
            return self._store.feedback.take(tenant, id, text, memory_ids=memory_ids, corrected=corrected, at=at)

        outcome = await self._threads.do(give)
        await self._invalidation.drop(tenant, outcome.replaced)
        return outcome

    async def latest(self, tenant: str, cube: str | None, limit: int) -> list[FeedbackOutcome]:
        """Return the last feedback on a cube, the newest first. Raises ``NotFound``."""
        id = await self._cubes.id_of(tenant, cube)
        return await asyncio.to_thread(self._store.feedback.all, tenant, id, limit)

    async def is_known(self, tenant: str, id: str) -> bool:
        """Tell if feedback of that id was given lately, on a cube that the tenant may read."""

        def known() -> bool:
            return any(
                outcome.id == id
                for cube in self._store.cubes.all(tenant)
                for outcome in self._store.feedback.all(tenant, cube.id, _LOOKED_AT)
            )

        return await asyncio.to_thread(known)

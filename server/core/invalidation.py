"""The one place where segments of texts that have changed, or are gone, are removed."""

from __future__ import annotations

from collections.abc import Iterable

from engine.base import Engine
from memory import Memory
from scheduler import Foresight, Upkeep


class Invalidation:
    """Removes what was computed from memories, in every tier, and tells those who plan ahead. Async, for the event
    loop."""

    def __init__(self, engine: Engine, upkeep: Upkeep, foresight: Foresight | None = None) -> None:
        self._engine = engine
        self._upkeep = upkeep
        self._foresight = foresight

    async def drop(self, tenant: str, memories: Iterable[Memory]) -> int:
        """Remove what was computed from these texts, and return how many segments that were."""
        gone = list(memories)
        if not gone:
            return 0
        removed = await self._engine.forget([memory.label for memory in gone])
        for cube in {memory.cube_id for memory in gone}:
            self._upkeep.changed(tenant, cube)
        return removed

    async def erase(self, tenant: str, memories: Iterable[Memory]) -> int:
        """Remove what was computed from texts that are gone for good, and from conversations: their words stand in the
        turns, whose keys and values are kept too. Return how many segments that were."""
        return await self.drop(tenant, memories) + await self.drop_conversations(tenant)

    async def drop_conversations(self, tenant: str) -> int:
        """Remove what was computed from a tenant's conversations, and return how many segments that were."""
        return await self._engine.forget_conversations(tenant)

    async def erase_cube(self, tenant: str, cube_id: str, memories: Iterable[Memory]) -> int:
        """``erase`` the memories of a cube that is gone, and have nothing more built or predicted for it."""
        self._upkeep.forget(tenant, cube_id)
        if self._foresight is not None:
            self._foresight.forget(tenant, cube_id)
        return await self.erase(tenant, memories)

    async def left_of(self, memory: Memory) -> int:
        """Look again for segments of a text that was erased; remove them, and return how many there were."""
        return await self._engine.forget([memory.label])

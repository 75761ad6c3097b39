"""Cubes: one's own, those that others share, and who may use them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence

from engine.base import Fidelity
from memory import Access, Cube, Grant, Group, Memory, MemoryStore, NotFound
from server.core.invalidation import Invalidation


class CubeService:
    """Async, for the event loop; the side store's blocking work runs in threads. A cube is named by its id or its name
    where nothing else is said."""

    def __init__(self, store: MemoryStore, invalidation: Invalidation) -> None:
        self._store = store
        self._invalidation = invalidation

    async def get(self, tenant: str, cube: str | None) -> Cube:
        """Return a cube that the tenant may read; the default one for None. Raises ``NotFound``."""
        if cube is None:
            return await asyncio.to_thread(self._store.default_cube, tenant)
        return await asyncio.to_thread(self._store.cube, tenant, cube)

    async def several(self, tenant: str, cubes: Sequence[str] | None) -> list[Cube]:
        """Return these cubes; the default one alone for None. Raises ``NotFound``."""

        def find() -> list[Cube]:
            if cubes is None:
                return [self._store.default_cube(tenant)]
            return [self._store.cube(tenant, cube) for cube in cubes]

        return await asyncio.to_thread(find)

    async def id_of(self, tenant: str, cube: str | None) -> str:
        """Return a cube's id; the default one's for None. Raises ``NotFound``."""
        return (await self.get(tenant, cube)).id

    async def all(self, tenant: str) -> list[Cube]:
        """Return the tenant's cubes, and those that others share with it."""
        return await asyncio.to_thread(self._store.cubes.all, tenant)

    async def own(self, tenant: str, names: Sequence[str] | None) -> dict[str, Cube]:
        """Return one's own cubes of these names, as far as they exist (None: all of them), by the name asked for."""

        def find() -> dict[str, Cube]:
            if names is None:
                return {cube.name: cube for cube in self._store.cubes.all(tenant) if cube.tenant == tenant}
            found: dict[str, Cube] = {}
            for name in names:
                with contextlib.suppress(NotFound):
                    found[name] = self._store.cubes.own(tenant, name)
            return found

        return await asyncio.to_thread(find)

    async def named(self, tenant: str, name: str) -> Cube:
        """Return one's own cube of that name, made where there is none. Raises ``InvalidMemory``."""
        return await asyncio.to_thread(self._store.cubes.named, tenant, name)

    async def create(self, tenant: str, name: str, fidelity: Fidelity | None = None) -> Cube:
        """Make a cube. Raises ``Conflict``, ``InvalidMemory``."""
        return await asyncio.to_thread(self._store.cubes.create, tenant, name, fidelity)

    async def set_fidelity(
        self, tenant: str, cube: str, fidelity: Fidelity | None, expected: Collection[int] | None = None
    ) -> Cube:
        """Say how exact the KV of a cube's memories must be (None: as the server's setting says). ``expected``:
        revisions that may be changed (None: any). Raises ``NotFound``, ``Stale``."""
        return await asyncio.to_thread(self._store.cubes.set_fidelity, tenant, cube, fidelity, expected)

    async def delete(self, tenant: str, cube: str, expected: Collection[int] | None = None) -> tuple[list[Memory], int]:
        """Delete one's own cube with all that is in it, at once and for good. Return its memories, and how many
        segments were removed. ``expected``: revisions that may be deleted (None: any). Raises ``NotFound``,
        ``Stale``."""
        id = await self.id_of(tenant, cube)
        memories = await asyncio.to_thread(self._store.cubes.delete, tenant, id, expected)
        return memories, await self._invalidation.erase_cube(tenant, id, memories)

    async def reindex(self, tenant: str, cube: str) -> int:
        """Make a cube's full text, vectors and names again from its memories, and return how many there are. Raises
        ``NotFound``, ``EmbedderError``."""
        return await asyncio.to_thread(self._store.index.rebuild, tenant, cube)

    async def grants(self, tenant: str, cube: str) -> list[Grant]:
        """Return who else may use a cube. Raises ``NotFound``."""
        return await asyncio.to_thread(self._store.cubes.grants, tenant, cube)

    async def share(self, tenant: str, cube: str, principal: str, access: Access) -> Grant:
        """Let another tenant, or a group (``group:NAME``), read or change a cube. Raises ``NotFound``,
        ``InvalidMemory``."""
        return await asyncio.to_thread(self._store.cubes.share, tenant, cube, principal, access)

    async def unshare(self, tenant: str, cube: str, principal: str) -> None:
        """Take a grant back. Raises ``NotFound``."""
        await asyncio.to_thread(self._store.cubes.unshare, tenant, cube, principal)

    async def set_group(self, tenant: str, name: str, members: list[str]) -> Group:
        """Make a group of tenants, or change who is in it. Raises ``InvalidMemory``."""
        return await asyncio.to_thread(self._store.cubes.set_group, tenant, name, members)

    async def group(self, tenant: str, name: str) -> Group:
        """Return a group by name or id. Raises ``NotFound``."""
        return await asyncio.to_thread(self._store.cubes.group, tenant, name)

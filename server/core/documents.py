"""Files that are kept as memories."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from memory import Document, Imported, Memory, MemoryStore
from memory.domain.cubes import DEFAULT_CUBE
from server.core.cubes import CubeService
from server.core.invalidation import Invalidation

_READERS = 2


class DocumentService:
    """Async, for the event loop; reading a file is done in threads that nothing else waits for, a few at once: it may
    take a minute."""

    def __init__(self, store: MemoryStore, cubes: CubeService, invalidation: Invalidation) -> None:
        self._store = store
        self._cubes = cubes
        self._invalidation = invalidation
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="document-reader")

    async def add(self, tenant: str, cube: str, name: str, data: bytes, media_type: str | None) -> tuple[Imported, int]:
        """Keep a file's text as memories, in the place of a file of that name. Return what became of it, and how many
        segments were removed. Raises ``NotFound``, ``Forbidden``, ``InvalidMemory``, ``UnreadableDocument``,
        ``StorageFull``, ``EmbedderError``."""
        # The default cube is made where it is missing, by its name too.
        id = await self._cubes.id_of(tenant, None if cube == DEFAULT_CUBE else cube)
        run, add = copy_context().run, self._store.documents.add
        done = await asyncio.get_running_loop().run_in_executor(
            self._readers, run, add, tenant, id, name, data, media_type
        )
        return done, await self._invalidation.drop(tenant, done.replaced)

    async def all(self, tenant: str, cube: str) -> list[Document]:
        """Return a cube's documents, by name. Raises ``NotFound``."""
        return await asyncio.to_thread(self._store.documents.all, tenant, cube)

    async def delete(self, tenant: str, cube: str, document_id: str) -> tuple[list[Memory], int]:
        """Delete a document: its memories go out of use. Return them, and how many segments were removed. Raises
        ``NotFound``, ``Forbidden``."""
        memories = await asyncio.to_thread(self._store.documents.delete, tenant, cube, document_id)
        return memories, await self._invalidation.drop(tenant, memories)

    def close(self) -> None:
        """Begin nothing more."""
        self._readers.shutdown(wait=False, cancel_futures=True)

"""The one door to memory: what the server does with memories, whatever dialect asks. Whatever changes a memory has its
segments removed here, so that no route can forget to."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory import (
    AddOutcome,
    Change,
    Hit,
    Memory,
    MemoryStatus,
    MemoryStore,
    Message,
    NotFound,
    Page,
    Proof,
    Subject,
)
from server.core.checks import check_filter
from server.core.cubes import CubeService
from server.core.documents import DocumentService
from server.core.feedback import FeedbackService
from server.core.invalidation import Invalidation
from server.core.jobs import JobService
from server.core.messages import Extractors, MessageService
from server.core.threads import ModelThreads

_PAGE = 500


@dataclass(frozen=True)
class MemoryStats:
    """Counters of the side store: what became of what was said, by action; jobs there are, by status."""

    placed: Mapping[str, int]
    jobs: Mapping[str, int]
    job_failures: int
    extractor_fallbacks: int


class MemoryService:
    """Async, for the event loop; the side store's blocking work runs in threads. It owns the side store, which nobody
    behind this door sees; what is about messages, cubes, documents, feedback and jobs is in parts of those
    names.

    Unless something else is said, a method raises ``NotFound`` for what is nobody's or another tenant's, and
    ``Forbidden`` for a change of what was shared for reading.
    """

    def __init__(self, store: MemoryStore, invalidation: Invalidation, extractors: Extractors) -> None:
        self._store = store
        self._invalidation = invalidation
        self._extractors = extractors
        self._placed: Counter[str] = Counter()
        self.cubes = CubeService(store, invalidation)
        self.documents = DocumentService(store, self.cubes, invalidation)
        self._threads = ModelThreads(store)
        self.feedback = FeedbackService(store, self.cubes, self._threads, invalidation)
        self.jobs = JobService(store.jobs, {"messages": lambda job: self.messages.do_job(job)}, self._chores)
        self.messages = MessageService(store, self.cubes, self.jobs, self._threads, extractors, self._replaced)

    # -- the service itself ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to do jobs, in the running event loop."""
        self.jobs.start()

    async def stop(self) -> None:
        """Begin nothing more. Jobs are left for the next start."""
        await self.jobs.close()
        self.documents.close()
        self._threads.close()

    async def close(self) -> None:
        """Close the side store, after ``stop`` and once nobody asks for anything."""
        await asyncio.to_thread(self._store.close)

    def stats(self) -> MemoryStats:
        """Return what the metrics page shows. Blocks."""
        return MemoryStats(self._placed, self.jobs.counts(), self.jobs.failures, self._extractors.fallbacks)

    @property
    def undelete_s(self) -> float:
        """Return for how many seconds a deleted memory can be brought back."""
        return self._store.undelete_s

    # -- adding ----------------------------------------------------------------------------------------------

    async def add(self, tenant: str, cube: str | None, text: str, **fields: Any) -> AddOutcome:
        """Store a memory as it is given."""
        id = await self.cubes.id_of(tenant, cube)
        placed = await self._threads.do(lambda: self._store.add_noted(tenant, id, text, **fields))
        await self._replaced(tenant, [placed])
        return placed

    async def _replaced(self, tenant: str, placed: Sequence[AddOutcome]) -> None:
        self._placed.update(item.action for item in placed)
        await self._invalidation.drop(tenant, [memory for item in placed for memory in item.replaced])

    # -- finding ---------------------------------------------------------------------------------------------

    async def search(
        self, tenant: str, query: str, cubes: Sequence[str] | None, *, top_k: int = 5, **options: Any
    ) -> list[Hit]:
        """Search in these cubes (None: the default one), and return the best memories, best first."""

        def find() -> list[Hit]:
            ids = cubes if cubes is not None else [self._store.default_cube(tenant).id]
            return self._store.search(tenant, query, cube_ids=ids, top_k=top_k, **options)

        return await asyncio.to_thread(find)

    async def get(self, tenant: str, memory_id: str) -> Memory:
        """Return a memory."""
        return await asyncio.to_thread(self._store.get, tenant, memory_id)

    async def existing(self, tenant: str, ids: Iterable[str]) -> list[Memory]:
        """Return the memories of these ids, each once; ids of nobody's are skipped."""

        def read() -> list[Memory]:
            memories: list[Memory] = []
            for id in dict.fromkeys(ids):
                with contextlib.suppress(NotFound):
                    memories.append(self._store.get(tenant, id))
            return memories

        return await asyncio.to_thread(read)

    async def page(self, tenant: str, cube: str | None = None, **options: Any) -> Page:
        """Return one page of a cube's memories (None: of all one's own), in order of creation. ``options`` are
        ``MemoryStore.list_memories``'s: kind, status, limit, after, filter. Raises ``InvalidMemory``."""
        return await asyncio.to_thread(lambda: self._store.list_memories(tenant, cube, **options))

    async def everything(
        self,
        tenant: str,
        names: Sequence[str] | None,
        filter: Mapping[str, Any],
        statuses: Sequence[MemoryStatus] = ("active",),
    ) -> list[Memory]:
        """Return all memories of these statuses in one's own cubes of these names (None: in all of them), in order of
        creation. Raises ``InvalidMemory`` for a bad filter, whether the cubes exist or not."""
        check_filter(filter)
        cubes = await self.cubes.own(tenant, names)
        ids: Sequence[str | None] = (None,) if names is None else [cube.id for cube in cubes.values()]

        def read() -> list[Memory]:
            found: list[Memory] = []
            for id in ids:
                with contextlib.suppress(NotFound):  # it was deleted meanwhile
                    for status in statuses:
                        found += self._whole_list(tenant, id, status, filter)
            return found

        return await asyncio.to_thread(read)

    def _whole_list(self, tenant: str, cube: str | None, status: str, filter: Mapping[str, Any]) -> list[Memory]:
        found: list[Memory] = []
        after: str | None = None
        while True:
            page = self._store.list_memories(
                tenant, cube, status=status, limit=_PAGE, after=after, filter=filter or None
            )
            found += page.items
            after = page.next
            if after is None:
                return found

    async def history(self, tenant: str, memory_id: str) -> list[Change]:
        """Return what was done to a memory, oldest first."""
        return await asyncio.to_thread(self._store.history, tenant, memory_id)

    async def sources(self, tenant: str, memory_id: str) -> list[Message]:
        """Return the messages that a memory is from, in order."""
        return await asyncio.to_thread(self._store.sources, tenant, memory_id)

    async def labels_of(self, tenant: str) -> set[str]:
        """Return the labels that segments of the tenant's own memories have."""
        return await asyncio.to_thread(self._store.labels_of, tenant)

    # -- changing --------------------------------------------------------------------------------------------

    async def update(self, tenant: str, memory_id: str, **fields: Any) -> Memory:
        """Change a memory, as ``MemoryStore.change`` does, and return it. What was computed from its old text is
        removed before the reply."""
        changed = await asyncio.to_thread(lambda: self._store.change(tenant, memory_id, **fields))
        if changed.before.label != changed.after.label or changed.after.status != "active":
            await self._invalidation.drop(tenant, [changed.before])
        return changed.after

    async def delete(self, tenant: str, memory_id: str, expected: Collection[int] | None = None) -> tuple[Memory, int]:
        """Take a memory out of use, and return it with the number of segments that were removed. ``expected``:
        revisions that may be deleted (None: any)."""
        memory = await asyncio.to_thread(self._store.delete, tenant, memory_id, expected)
        return memory, await self._invalidation.drop(tenant, [memory])

    async def undelete(self, tenant: str, memory_id: str, *, within: str | None = None) -> Memory:
        """Bring a deleted memory back, and return it. ``within``: the name of one's own cube that it must be in."""

        def undelete() -> Memory:
            if within is not None:
                cube = self._store.cubes.own(tenant, within)
                wanted = {"id": memory_id}
                if not self._store.list_memories(tenant, cube.id, status="deleted", filter=wanted, limit=1).items:
                    raise NotFound("deleted memory", memory_id)
            return self._store.undelete(tenant, memory_id)

        return await asyncio.to_thread(undelete)

    async def forget(
        self, tenant: str, memory_id: str, expected: Collection[int] | None = None
    ) -> tuple[Proof, int, int]:
        """Overwrite a memory and everything computed from it. Return the proof, the number of segments removed, and of
        those that a look afterwards still found."""
        proof = await asyncio.to_thread(self._store.forget, tenant, memory_id, expected)
        removed = await self._invalidation.erase(tenant, [proof.memory])
        return proof, removed, await self._invalidation.left_of(proof.memory)

    async def remove(self, tenant: str, memories: Iterable[Memory]) -> list[Memory]:
        """``delete`` several memories, and return those that were there."""
        gone: list[Memory] = []

        def delete() -> None:
            for memory in memories:
                with contextlib.suppress(NotFound):  # another request was faster
                    gone.append(self._store.delete(tenant, memory.id))

        try:
            await asyncio.to_thread(delete)
        finally:
            await self._invalidation.drop(tenant, gone)
        return gone

    async def erase(self, tenant: str, subject: Subject, cubes: Sequence[str] | None = None) -> list[Memory]:
        """Remove all that was ever said by and remembered of a subject (in the cubes of these names only), whatever its
        status: at once and for good, with everything that was computed from it. Return the memories."""
        memories = await asyncio.to_thread(self._store.erasing.erase, tenant, subject, cubes)
        await self._invalidation.erase(tenant, memories)
        return memories

    # -- in between ------------------------------------------------------------------------------------------

    async def _chores(self) -> None:
        for tenant in await asyncio.to_thread(self._store.erasing.forget_late):
            await self._invalidation.drop_conversations(tenant)
        await self._invalidation.drop("", await asyncio.to_thread(self._store.erasing.archive_expired))
        await asyncio.to_thread(self._store.jobs.sweep)
        await asyncio.to_thread(self._store.keyed.sweep)

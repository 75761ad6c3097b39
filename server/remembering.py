"""What the server does with memories, whatever dialect asks: the side store's work, and then what follows from it for
segments. Every way in goes through here, so that no dialect can forget to."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict
from typing import Any, TypeVar

from engine.base import Engine
from memory import (
    AddOutcome,
    Cube,
    Extractor,
    FeedbackOutcome,
    Hit,
    Job,
    Memory,
    MemoryStore,
    Message,
    ModelExtractor,
    Proof,
    Said,
    Subject,
    new_message,
)
from memory.checks import checked_time
from memory.errors import InvalidMemory, NotFound
from scheduler import Foresight, JobRunner, Upkeep
from server import once
from server.metrics import MemoryStats
from server.recalled import without_recalled

T = TypeVar("T")
_READERS = 4


class Remembering:
    """Async, for the event loop; the side store's blocking work runs in threads."""

    def __init__(
        self,
        memories: MemoryStore,
        engine: Engine,
        upkeep: Upkeep,
        extractors: dict[str, Extractor],
        default: str,
        foresight: Foresight | None = None,
    ) -> None:
        self.store = memories
        self._engine = engine
        self._upkeep = upkeep
        self._foresight = foresight
        self._extractors = extractors
        self._default = default
        # Apart from the threads that all requests need: a model takes its time.
        self._readers = ThreadPoolExecutor(_READERS, "extract")
        self.jobs = JobRunner(memories.jobs, {"messages": self._messages_job}, self._chores)
        self._placed: Counter[str] = Counter()

    def stats(self) -> MemoryStats:
        """For the metrics page."""
        fallbacks = sum(e.fallbacks for e in self._extractors.values() if isinstance(e, ModelExtractor))
        return MemoryStats(self._placed, self.store.jobs.counts(), self.jobs.failures, fallbacks)

    # -- adding ----------------------------------------------------------------------------------------------

    async def add(self, tenant: str, cube: str | None, text: str, **fields: Any) -> AddOutcome:
        """Store a memory as it is given."""
        id = await self.cube_id(tenant, cube)
        placed = await asyncio.to_thread(lambda: self.store.add_noted(tenant, id, text, **fields))
        await self._replaced(tenant, [placed])
        return placed

    async def add_messages(
        self, tenant: str, cube: str | None, messages: Sequence[Message], said: Said, extractor: str | None = None
    ) -> list[AddOutcome]:
        """Keep messages and what is worth remembering of them, now."""
        id = await self.cube_id(tenant, cube)
        find = self.extractor(extractor)
        placed = await self._read(find, lambda: self.store.add_messages(tenant, id, messages, said, extractor=find))
        await self._replaced(tenant, placed)
        return placed

    async def queue_messages(
        self,
        tenant: str,
        cube: str | None,
        messages: Sequence[Message],
        said: Said,
        extractor: str | None = None,
        job_id: str | None = None,
    ) -> Job:
        """Keep messages in a job, which finds what is worth remembering of them later. What cannot be kept is refused
        now."""
        id = await self.cube_id(tenant, cube)
        self.extractor(extractor)
        await asyncio.to_thread(self.store.adding.check_messages, tenant, id, messages, said)
        payload = {
            "cube": id,
            "messages": [asdict(message) for message in messages],
            "said": asdict(said),
            "extractor": extractor,
        }
        job = await asyncio.to_thread(self.store.jobs.put, tenant, "messages", payload, job_id)
        self.jobs.wake()
        return job

    async def remember(self, tenant: str, cube: str, text: str, session: str | None) -> None:
        """Keep what a user said in a chat, in a job; that of a request with a key, once."""
        message = message_of(text)
        if message.text.strip():
            id = "job_" + once.token()[:24]
            await self.queue_messages(tenant, cube, [message], Said(session=session), job_id=id)

    async def _messages_job(self, job: Job) -> None:
        given = job.payload
        messages = [Message(**fields) for fields in given["messages"]]
        said = Said(**{**given["said"], "tags": tuple(given["said"]["tags"])})
        finish = self.store.jobs.finishing(job.id)
        find = self.extractor(given["extractor"])
        placed = await self._read(
            find,
            lambda: self.store.add_messages(
                job.tenant,
                given["cube"],
                messages,
                said,
                extractor=find,
                finish=lambda db, done: finish(db, [placed_json(item) for item in done]),
            ),
        )
        await self._replaced(job.tenant, placed)

    async def _read(self, extractor: Extractor, work: Callable[[], T]) -> T:
        """Do work that waits for an extractor in a thread."""
        if extractor.name == "local":
            return await asyncio.to_thread(work)
        return await asyncio.get_running_loop().run_in_executor(self._readers, copy_context().run, work)

    def extractor(self, name: str | None) -> Extractor:
        """Raises ``InvalidMemory`` for an unknown one."""
        name = name or self._default
        if name not in self._extractors:
            raise InvalidMemory(
                f"There is no extractor '{name}' here; there are {', '.join(self._extractors)}.", "extractor"
            )
        return self._extractors[name]

    # -- finding ---------------------------------------------------------------------------------------------

    async def search(
        self, tenant: str, query: str, cubes: Sequence[str] | None, *, top_k: int = 5, **options: Any
    ) -> list[Hit]:
        """Search in these cubes (None: the default one)."""

        def find() -> list[Hit]:
            ids = cubes if cubes is not None else [self.store.default_cube(tenant).id]
            return self.store.search(tenant, query, cube_ids=ids, top_k=top_k, **options)

        return await asyncio.to_thread(find)

    async def cube_id(self, tenant: str, cube: str | None) -> str:
        """A cube's id by id or name; the default cube's for None. Raises ``NotFound``."""

        def find() -> Cube:
            return self.store.default_cube(tenant) if cube is None else self.store.cube(tenant, cube)

        return (await asyncio.to_thread(find)).id

    # -- changing --------------------------------------------------------------------------------------------

    async def update(self, tenant: str, memory_id: str, **fields: Any) -> Memory:
        """Change a memory, as ``MemoryStore.change`` does. What was computed from its old text is removed before the
        reply."""
        changed = await asyncio.to_thread(lambda: self.store.change(tenant, memory_id, **fields))
        if changed.before.label != changed.after.label or changed.after.status != "active":
            await self.drop_segments(tenant, [changed.before])
        return changed.after

    async def delete(self, tenant: str, memory_id: str, expected: Collection[int] | None = None) -> tuple[Memory, int]:
        """Take a memory out of use, and remove what was computed from it; how many segments that were. ``expected``:
        revisions that may be deleted (None: any)."""
        memory = await asyncio.to_thread(self.store.delete, tenant, memory_id, expected)
        return memory, await self.drop_segments(tenant, [memory])

    async def forget(
        self, tenant: str, memory_id: str, expected: Collection[int] | None = None
    ) -> tuple[Proof, int, int]:
        """Overwrite a memory and everything computed from it; the proof, the segments removed, and those that a look
        afterwards still finds."""
        proof = await asyncio.to_thread(self.store.forget, tenant, memory_id, expected)
        removed = await self._gone(tenant, [proof.memory])
        left = await self._engine.forget([proof.memory.label])
        return proof, removed, left

    async def remove(self, tenant: str, memories: Iterable[Memory]) -> list[Memory]:
        """``delete`` several memories; those that were there."""
        gone: list[Memory] = []

        def delete() -> None:
            for memory in memories:
                with contextlib.suppress(NotFound):  # another request was faster
                    gone.append(self.store.delete(tenant, memory.id))

        try:
            await asyncio.to_thread(delete)
        finally:
            await self.drop_segments(tenant, gone)
        return gone

    async def erase(self, tenant: str, subject: Subject, cubes: Sequence[str] | None = None) -> list[Memory]:
        """Remove all that was ever said by and remembered of a subject (in the cubes of these names only), whatever its
        status: at once and for good, with everything that was computed from it. The memories are returned."""
        memories = await asyncio.to_thread(self.store.erasing.erase, tenant, subject, cubes)
        await self._gone(tenant, memories)
        return memories

    async def delete_cube(
        self, tenant: str, cube: str, expected: Collection[int] | None = None
    ) -> tuple[list[Memory], int]:
        """Delete one's own cube (by id or name) with all that is in it, at once and for good; its memories, and how
        many segments were removed. ``expected``: revisions that may be deleted (None: any). Raises ``NotFound``,
        ``Stale``."""
        id = await self.cube_id(tenant, cube)
        memories = await asyncio.to_thread(self.store.cubes.delete, tenant, id, expected)
        self._upkeep.forget(tenant, id)
        if self._foresight is not None:
            self._foresight.forget(tenant, id)
        return memories, await self._gone(tenant, memories)

    async def _gone(self, tenant: str, memories: Iterable[Memory]) -> int:
        """Remove what was computed from texts that are gone for good, and from conversations: their words stand in the
        turns, whose keys and values are kept too. How many segments that were."""
        return await self.drop_segments(tenant, memories) + await self._engine.forget_conversations(tenant)

    async def feedback(
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
        those that it changed."""

        def give() -> FeedbackOutcome:
            if cube is None and memory_ids:
                id = self.store.get(tenant, memory_ids[0]).cube_id
            else:
                id = self.store.default_cube(tenant).id if cube is None else cube
            return self.store.feedback.take(tenant, id, text, memory_ids=memory_ids, corrected=corrected, at=at)

        outcome = await asyncio.to_thread(give)
        await self.drop_segments(tenant, outcome.replaced)
        return outcome

    async def drop_segments(self, tenant: str, memories: Iterable[Memory]) -> int:
        """Remove what was computed from these texts, in every tier."""
        gone = list(memories)
        if not gone:
            return 0
        removed = await self._engine.forget([memory.label for memory in gone])
        for cube in {memory.cube_id for memory in gone}:
            self._upkeep.changed(tenant, cube)
        return removed

    async def _replaced(self, tenant: str, placed: Sequence[AddOutcome]) -> None:
        self._placed.update(item.action for item in placed)
        await self.drop_segments(tenant, [memory for item in placed for memory in item.replaced])

    async def _chores(self) -> None:
        for tenant in await asyncio.to_thread(self.store.erasing.forget_late):
            await self._engine.forget_conversations(tenant)
        await self.drop_segments("", await asyncio.to_thread(self.store.erasing.archive_expired))
        await asyncio.to_thread(self.store.jobs.sweep)
        await asyncio.to_thread(self.store.keyed.sweep)

    async def close(self) -> None:
        await self.jobs.close()
        self._readers.shutdown(wait=False, cancel_futures=True)


def message_of(
    text: str,
    role: str = "user",
    *,
    name: str | None = None,
    time: str | float | None = None,
    metadata: dict[str, Any] | None = None,
) -> Message:
    """A message as a client sends it, without memories that were recalled for it. ``time`` is ISO 8601 or Unix time.
    Raises ``InvalidMemory``."""
    at, offset = (None, 0) if time is None else checked_time(time, "messages")
    return new_message(without_recalled(text, role), role, at, name, utc_offset=offset, metadata=metadata or {})


def placed_json(placed: AddOutcome) -> dict[str, Any]:
    """What became of a unit, without texts."""
    return {
        "action": placed.action,
        "id": placed.memory.id,
        "replaced": [memory.id for memory in placed.replaced],
    }

"""Messages as they were said, and what is worth remembering of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NotRequired

from typing_extensions import TypedDict

from memory import AddOutcome, Extractor, InvalidMemory, Job, MemoryStore, Message, ModelExtractor, Said
from server.core import once
from server.core.checks import message_of
from server.core.cubes import CubeService
from server.core.jobs import JobService
from server.core.threads import ModelThreads

Replaced = Callable[[str, Sequence[AddOutcome]], Awaitable[None]]
"""Counts what became of a tenant's messages, and drops the segments of what they replaced."""


@dataclass(frozen=True)
class Extractors:
    """The extractors of memories from messages, by name, and the name of the default one."""

    by_name: Mapping[str, Extractor]
    default: str

    def chosen(self, name: str | None) -> Extractor:
        """Return the extractor of that name, or the default one. Raises ``InvalidMemory`` for an unknown name."""
        name = name or self.default
        if name not in self.by_name:
            told = f"There is no extractor '{name}' here; there are {', '.join(self.by_name)}."
            raise InvalidMemory(told, "extractor")
        return self.by_name[name]

    @property
    def fallbacks(self) -> int:
        """Count how often messages were read without the model that was to read them."""
        return sum(one.fallbacks for one in self.by_name.values() if isinstance(one, ModelExtractor))


class MessageService:
    """Async, for the event loop; the side store's blocking work runs in threads, and what waits for a model in threads
    of their own."""

    def __init__(
        self,
        store: MemoryStore,
        cubes: CubeService,
        jobs: JobService,
        threads: ModelThreads,
        extractors: Extractors,
        replaced: Replaced,
    ) -> None:
        self._store = store
        self._cubes = cubes
        self._jobs = jobs
        self._extractors = extractors
        self._replaced = replaced
        self._threads = threads

    async def add(
        self, tenant: str, cube: str | None, messages: Sequence[Message], said: Said, extractor: str | None = None
    ) -> list[AddOutcome]:
        """Keep messages and what is worth remembering of them, now."""
        id = await self._cubes.id_of(tenant, cube)
        find = self._extractors.chosen(extractor)
        placed = await self._threads.do(
            lambda: self._store.add_messages(tenant, id, messages, said, extractor=find), waits=find.name != "local"
        )
        await self._replaced(tenant, placed)
        return placed

    async def queue(
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
        id = await self._cubes.id_of(tenant, cube)
        self._extractors.chosen(extractor)
        _, messages = await asyncio.to_thread(self._store.adding.check_messages, tenant, id, messages, said)
        payload = {
            "cube": id,
            "messages": [asdict(message) for message in messages],
            "said": asdict(said),
            "extractor": extractor,
        }
        return await self._jobs.put(tenant, "messages", payload, job_id)

    async def remember(self, tenant: str, cube: str, text: str, session: str | None) -> None:
        """Keep what a user said in a chat, in a job; that of a request with a key, once."""
        message = message_of(text)
        if message.text.strip():
            id = "job_" + once.token()[:24]
            await self.queue(tenant, cube, [message], Said(session=session), job_id=id)

    async def do_job(self, job: Job) -> None:
        """Do what ``queue`` put off."""
        given = job.payload
        messages = [Message(**fields) for fields in given["messages"]]
        said = Said(**{**given["said"], "tags": tuple(given["said"]["tags"])})
        finish = self._store.jobs.finishing(job.id)
        find = self._extractors.chosen(given["extractor"])
        placed = await self._threads.do(
            lambda: self._store.add_messages(
                job.tenant,
                given["cube"],
                messages,
                said,
                extractor=find,
                finish=lambda db, done: finish(db, [placed_json(item) for item in done]),
                patience="job",
            ),
            waits=find.name != "local",
        )
        await self._replaced(job.tenant, placed)

    async def latest(self, tenant: str, cube: str | None, session: str | None, limit: int) -> list[Message]:
        """Return the last messages of a cube (None: of the default one), or of one conversation in it, oldest first."""
        id = await self._cubes.id_of(tenant, cube)
        return await asyncio.to_thread(self._store.messages, tenant, id, session, limit)


class PlacedUnit(TypedDict):
    """The outcome for one unit of what was said: the memory's id, and the ids of those that it replaced. ``masked``: a
    secret was taken out."""

    action: str
    id: str
    replaced: list[str]
    masked: NotRequired[bool]


def placed_json(placed: AddOutcome) -> PlacedUnit:
    """Return what became of a unit, without texts."""
    unit: PlacedUnit = {
        "action": placed.action,
        "id": placed.memory.id,
        "replaced": [memory.id for memory in placed.replaced],
    }
    if placed.masked:
        unit["masked"] = True
    return unit

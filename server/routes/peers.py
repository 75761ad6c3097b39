"""What the dialects of other memory servers have in common: whose memories a request means, how their clients write
messages, and what happens to many memories at once.

The tenant is the key's, always. A client's user is a cube of that tenant, made when something is first added for it;
reading and deleting make nothing. What has no user is kept in a cube of its agent, run or application.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from memory import Cube, Hit, Job, Memory, MemoryStatus, Message, Said
from memory.checks import checked_message, checked_metadata, checked_tags, checked_time
from memory.errors import InvalidMemory, NotFound
from memory.search.filters import parse_filter
from server import once
from server.errors import ApiError
from server.remembering import message_of
from server.schemas import Name, Spoken, Text, Time
from server.services import Services

T = TypeVar("T")

_PAGE = 500
# A filter may be nested deeper than the side store allows; it is the store's to say so, not the stack's.
_MAX_DEPTH = 10
_FIELDS = {"categories": "tags", "custom_tags": "tags", "app_id": "metadata.app_id"}
_MAX_JOBS = 10_000
_TRIES = 10
_TAG_CHARS = 8

PREFERENCES, TOOLS = ("preference",), ("tool",)
OTHER_KINDS = ("fact", "event", "state", "profile", "document")


# -- messages ------------------------------------------------------------------------------------------------


class PeerMessage(Spoken):
    """A message as other servers' clients send it; a bare ``{"type": "text", "text": "..."}`` is the user's."""

    role: Literal["user", "assistant", "system", "developer", "tool"] = "user"
    text: Text | None = None
    name: Name | None = None
    chat_time: Time | None = None

    @property
    def said(self) -> str:
        """The text of it; images and files are left out."""
        return self.text or "" if self.content is None else super().said


PeerMessages = Text | PeerMessage | Annotated[list[PeerMessage | Text], Field(min_length=1, max_length=10_000)]


def messages_of(given: PeerMessages, time: Time | None = None) -> list[Message]:
    """Messages that say something. ``time`` is of those that have none of their own. Raises ``InvalidMemory``."""
    items = given if isinstance(given, list) else [given]
    messages = [PeerMessage(content=item) if isinstance(item, str) else item for item in items]
    found = [
        checked_message(
            message_of(
                item.said,
                "system" if item.role == "developer" else item.role,
                name=item.name,
                time=time if item.chat_time is None else item.chat_time,
            )
        )
        for item in messages
        if item.said.strip()
    ]
    if not found:
        raise InvalidMemory("The messages say nothing.", "messages")
    return found


# -- whose -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whose:
    """The ids that a client names its memories by."""

    user: str | None = None
    agent: str | None = None
    run: str | None = None
    app: str | None = None

    @property
    def cube(self) -> str:
        """The name of the cube that is added to. Raises a 400 when nobody is named."""
        if self.user is not None:
            return self.user
        for kind, id in (("agent", self.agent), ("run", self.run), ("app", self.app)):
            if id is not None:
                return f"{kind}:{id}"
        raise ApiError(400, "Say whose memories: user_id, agent_id or run_id is needed.", "invalid_value")

    def said(self, metadata: Mapping[str, Any] | None, tags: Iterable[str] = (), expires: float | None = None) -> Said:
        """What all messages of one addition have in common. Checked here: a job could only fail. Raises
        ``InvalidMemory``."""
        details = {**(metadata or {}), **({} if self.app is None else {"app_id": self.app})}
        checked_metadata(details)
        return Said(self.run, self.user, self.agent, checked_tags(list(tags)), details, expires)

    @property
    def filter(self) -> dict[str, Any]:
        """What narrows a search beside the user, whom a cube stands for."""
        ids = {"agent": self.agent, "session": self.run, "metadata.app_id": self.app}
        return {field: id for field, id in ids.items() if id is not None}


@dataclass(frozen=True)
class Where:
    """Where to look: the cubes of these names (None: all of one's own), and what must hold of a memory."""

    cubes: tuple[str, ...] | None
    filter: dict[str, Any]


def where(whose: Whose, filter: Mapping[str, Any] | None = None) -> Where:
    """Where the memories of ``whose`` are that ``filter``, in the peers' words, lets through. A user that must hold
    names the cube; with several users, or none, all cubes are searched."""
    user, rest = _split_user(filter or {})
    conditions = [whose.filter, translated(rest)]
    if whose.user not in (None, "*"):
        if user not in (None, whose.user):
            conditions.append({"owner": user})
        user = whose.user
    return Where(None if user is None else (user,), both(*conditions))


def both(*filters: dict[str, Any]) -> dict[str, Any]:
    """A filter that lets through what each of them does."""
    parts = [part for part in filters if part]
    return {"and": parts} if len(parts) > 1 else parts[0] if parts else {}


def limited(place: Where) -> Where:
    """Raises a 400 when ``place`` is everywhere: nothing is to be deleted, or listed, because a filter was empty."""
    if place.cubes is None and not place.filter:
        raise ApiError(400, "filters: at least one is needed, such as user_id.", "invalid_value", param="filters")
    return place


def _split_user(filter: Mapping[str, Any], depth: int = 0) -> tuple[str | None, dict[str, Any]]:
    """The user that a filter requires, and the filter without."""
    user: str | None = None
    rest: dict[str, Any] = {}
    for key, value in filter.items():
        if key == "user_id" and isinstance(value, str) and value != "*" and user in (None, value):
            user = value.strip()
        elif key.lower() == "and" and isinstance(value, list) and depth < _MAX_DEPTH:
            parts: list[Any] = []
            for part in value:
                found, left = _split_user(part, depth + 1) if isinstance(part, dict) else (None, part)
                if found is not None and user in (None, found):
                    user, part = found, left
                parts.append(part)
            if left_over := [part for part in parts if part != {}]:
                rest[key] = left_over
        else:
            rest[key] = value
    return user, rest


def translated(filter: Any, depth: int = 0) -> Any:
    """A filter in the side store's words: ``categories`` are tags, an object of metadata is its fields."""
    if depth > _MAX_DEPTH or not isinstance(filter, dict):
        return filter
    found: dict[str, Any] = {}
    for name, value in filter.items():
        key = str(name)
        if key.lower() in ("and", "or", "not"):
            parts = value if isinstance(value, list) else [value]
            found[key] = [translated(part, depth + 1) for part in parts]
        elif key in ("metadata", "info") and isinstance(value, dict):
            found.update((f"metadata.{field}", wanted) for field, wanted in value.items())
        else:
            found[_FIELDS.get(key, key)] = value
    return found


async def cube_for(services: Services, tenant: str, name: str) -> Cube:
    """The cube to add to, made where there is none."""
    return await asyncio.to_thread(services.memories.cubes.named, tenant, name)


async def added_to(services: Services, tenant: str, name: str, add: Callable[[str], Awaitable[T]]) -> T:
    """``add`` to the cube of that name, by its id; to a new one where it is deleted at the same time."""
    tries = _TRIES
    while True:
        cube = await cube_for(services, tenant, name)
        try:
            return await add(cube.id)
        except NotFound as error:
            tries -= 1
            if error.id != cube.id or not tries:
                raise


async def cubes_at(services: Services, tenant: str, names: Sequence[str] | None) -> dict[str, Cube]:
    """The cubes of these names that there are (None: all of one's own), by the name that was asked for."""

    def find() -> dict[str, Cube]:
        if names is None:
            return {cube.name: cube for cube in services.memories.cubes.all(tenant) if cube.tenant == tenant}
        found: dict[str, Cube] = {}
        for name in names:
            with contextlib.suppress(NotFound):
                found[name] = services.memories.cubes.own(tenant, name)
        return found

    return await asyncio.to_thread(find)


# -- finding ---------------------------------------------------------------------------------------------------


async def listed(
    services: Services, tenant: str, place: Where, statuses: Sequence[MemoryStatus] = ("active",)
) -> list[Memory]:
    """All memories there of these statuses, in order of creation. Raises ``InvalidMemory`` for a bad filter, of an
    unknown user's too."""
    parse_filter(place.filter)
    cubes = await cubes_at(services, tenant, place.cubes)
    ids: Sequence[str | None] = (None,) if place.cubes is None else [cube.id for cube in cubes.values()]

    def read() -> list[Memory]:
        found: list[Memory] = []
        for id in ids:
            with contextlib.suppress(NotFound):  # it was deleted meanwhile
                for status in statuses:
                    found += _whole_list(services, tenant, id, status, place.filter)
        return found

    return await asyncio.to_thread(read)


def _whole_list(services: Services, tenant: str, cube: str | None, status: str, filter: dict[str, Any]) -> list[Memory]:
    found: list[Memory] = []
    after: str | None = None
    while True:
        page = services.memories.list_memories(
            tenant, cube, status=status, limit=_PAGE, after=after, filter=filter or None
        )
        found += page.items
        after = page.next
        if after is None:
            return found


async def found(
    services: Services, tenant: str, query: str, place: Where, top_k: int, *, floor: float = 0.0, **options: Any
) -> list[Hit]:
    """The best memories there, best first; ``floor`` is the least ``score_of`` that counts. Raises ``InvalidMemory``
    for a bad filter, of an unknown user's too."""
    parse_filter(place.filter)
    cubes = await cubes_at(services, tenant, place.cubes)
    if not cubes or top_k < 1:
        return []
    ids = [cube.id for cube in cubes.values()]
    hits = await services.remembering.search(tenant, query, ids, top_k=top_k, filter=place.filter or None, **options)
    return [hit for hit in hits if score_of(hit) >= floor]


def score_of(hit: Hit) -> float:
    """A hit's score from 0 to 1, as these clients expect it; ours has no upper end."""
    return round(1 - math.exp(-max(0.0, hit.score)), 6)


async def own_memory(services: Services, tenant: str, id: str) -> Memory:
    """A memory by its id. Raises ``NotFound``."""
    return await asyncio.to_thread(services.memories.get, tenant, id)


async def those_of(services: Services, tenant: str, ids: Iterable[str]) -> list[Memory]:
    """The memories of these ids that there are."""

    def read() -> list[Memory]:
        memories: list[Memory] = []
        for id in dict.fromkeys(ids):
            with contextlib.suppress(NotFound):
                memories.append(services.memories.get(tenant, id))
        return memories

    return await asyncio.to_thread(read)


# -- tasks -----------------------------------------------------------------------------------------------------


def _tag(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_TAG_CHARS]


def task_job_id(user: str, task: str | None = None) -> str:
    """An id for a job that can be found again by its user, and by the client's own name of the task: a job that has
    ended holds nothing else of them. In a request with a key, it is that request's."""
    own = once.token()
    return f"job_{_tag(user)}{own[:_TAG_CHARS] if task is None else _tag(task)}{own[-16:]}"


async def jobs_of(services: Services, tenant: str, user: str | None = None, task: str | None = None) -> list[Job]:
    """The tenant's jobs of a user, or of a task (a job's id, or the client's name), the newest first."""

    def belongs(job: Job) -> bool:
        tags = job.id.removeprefix("job_")
        if task is not None:
            return job.id == task or tags[_TAG_CHARS : 2 * _TAG_CHARS] == _tag(task)
        return user is None or tags[:_TAG_CHARS] == _tag(user)

    jobs = await asyncio.to_thread(lambda: services.memories.jobs.all(tenant, limit=_MAX_JOBS))
    return [job for job in jobs if belongs(job)]


# -- writing ---------------------------------------------------------------------------------------------------


def moment(value: Time | None, param: str) -> tuple[float | None, int]:
    """A time as Unix seconds, and its clock's offset from UTC. Raises ``InvalidMemory``."""
    return (None, 0) if value is None else checked_time(value, param)


def unix_time(value: Time | None, param: str) -> float | None:
    """A time as Unix seconds. Raises ``InvalidMemory``."""
    return moment(value, param)[0]


def iso(at: float | None) -> str | None:
    """Unix seconds as ISO 8601; None for times before the calendar's beginning or after its end."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        return None

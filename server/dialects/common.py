"""Shared parts of the dialects of other memory servers: ids, messages as their clients write them, lookups by name.

The tenant is the key's, always. A client's user is a cube of that tenant, made when something is first added for it;
reading and deleting make nothing. What has no user is kept in a cube of its agent, run or application.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from memory import Hit, InvalidMemory, Job, Memory, MemoryStatus, Message, NotFound, Said
from server.core import once
from server.core.checks import check_filter, checked_message_of, checked_said
from server.core.memories import MemoryService
from server.http.errors import ApiError
from server.http.schemas.fields import Name, Text, Time
from server.http.schemas.memories import Spoken

T = TypeVar("T")

_PAGE = 500
# A filter may be nested deeper than the side store allows; it is the store's to say so, not the stack's.
_MAX_DEPTH = 10
_FIELDS = {"categories": "tags", "custom_tags": "tags", "app_id": "metadata.app_id"}
_MAX_JOBS = 10_000
_TRIES = 10
_TAG_CHARS = 8

PREFERENCES, TOOLS = ("preference", "instruction"), ("tool",)
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
        """Return the text of it; images and files are left out."""
        return self.text or "" if self.content is None else super().said


PeerMessages = Text | PeerMessage | Annotated[list[PeerMessage | Text], Field(min_length=1, max_length=10_000)]


def messages_of(given: PeerMessages, time: Time | None = None) -> list[Message]:
    """Make messages of those that say something. ``time`` is of those that have none of their own. Raises
    ``InvalidMemory``."""
    items = given if isinstance(given, list) else [given]
    messages = [PeerMessage(content=item) if isinstance(item, str) else item for item in items]
    found = [
        checked_message_of(
            item.said,
            "system" if item.role == "developer" else item.role,
            name=item.name,
            time=time if item.chat_time is None else item.chat_time,
        )
        for item in messages
        if item.said.strip()
    ]
    if not found:
        raise InvalidMemory("The messages say nothing.", "messages")
    return found


# -- whose -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClientIds:
    """The ids that a client names its memories by."""

    user: str | None = None
    agent: str | None = None
    run: str | None = None
    app: str | None = None

    @property
    def cube(self) -> str:
        """Return the name of the cube that is added to. Raises a 400 when nobody is named."""
        if self.user is not None:
            return self.user
        for kind, id in (("agent", self.agent), ("run", self.run), ("app", self.app)):
            if id is not None:
                return f"{kind}:{id}"
        raise ApiError(400, "Say whose memories: user_id, agent_id or run_id is needed.", "invalid_value")

    def said(self, metadata: Mapping[str, Any] | None, tags: Iterable[str] = (), expires: float | None = None) -> Said:
        """Return what all messages of one addition have in common. Checked here: a job could only fail. Raises
        ``InvalidMemory``."""
        details = {**(metadata or {}), **({} if self.app is None else {"app_id": self.app})}
        return checked_said(Said(self.run, self.user, self.agent, tuple(tags), details, expires))

    @property
    def filter(self) -> dict[str, Any]:
        """Return what narrows a search beside the user, whom a cube stands for."""
        ids = {"agent": self.agent, "session": self.run, "metadata.app_id": self.app}
        return {field: id for field, id in ids.items() if id is not None}


@dataclass(frozen=True)
class Selection:
    """A place to look in: the cubes of these names (None: all of one's own), and what must hold of a memory."""

    cubes: tuple[str, ...] | None
    filter: dict[str, Any]


def selection_of(whose: ClientIds, filter: Mapping[str, Any] | None = None) -> Selection:
    """Translate ids and a filter in the peers' words into cubes to search and a native filter. A user that must hold
    names the cube; with several users, or none, all cubes are searched."""
    user, rest = _split_user(filter or {})
    conditions = [whose.filter, translated(rest)]
    if whose.user not in (None, "*"):
        if user not in (None, whose.user):
            conditions.append({"owner": user})
        user = whose.user
    return Selection(None if user is None else (user,), both(*conditions))


def both(*filters: dict[str, Any]) -> dict[str, Any]:
    """Join filters to one that lets through what each of them does."""
    parts = [part for part in filters if part]
    return {"and": parts} if len(parts) > 1 else parts[0] if parts else {}


def limited(place: Selection) -> Selection:
    """Refuse a place that is everywhere: nothing is to be deleted, or listed, because a filter was empty. Raises a
    400."""
    if place.cubes is None and not place.filter:
        raise ApiError(400, "filters: at least one is needed, such as user_id.", "invalid_value", param="filters")
    return place


def _split_user(filter: Mapping[str, Any], depth: int = 0) -> tuple[str | None, dict[str, Any]]:
    """Split a filter into the user that it requires, and the filter without."""
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
    """Translate a filter into the side store's words: ``categories`` are tags, an object of metadata is its fields."""
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


async def added_to(memories: MemoryService, tenant: str, name: str, add: Callable[[str], Awaitable[T]]) -> T:
    """``add`` to the cube of that name, by its id; to a new one where it is deleted at the same time."""
    tries = _TRIES
    while True:
        cube = await memories.cubes.named(tenant, name)
        try:
            return await add(cube.id)
        except NotFound as error:
            tries -= 1
            if error.id != cube.id or not tries:
                raise


# -- finding ---------------------------------------------------------------------------------------------------


async def listed(
    memories: MemoryService, tenant: str, place: Selection, statuses: Sequence[MemoryStatus] = ("active",)
) -> list[Memory]:
    """Return all memories there of these statuses, in order of creation. Raises ``InvalidMemory`` for a bad filter, of
    an unknown user's too."""
    return await memories.everything(tenant, place.cubes, place.filter, statuses)


async def found(
    memories: MemoryService,
    tenant: str,
    query: str,
    place: Selection,
    top_k: int,
    *,
    floor: float = 0.0,
    **options: Any,
) -> list[Hit]:
    """Search there, and return the best memories, best first; ``floor`` is the least ``score_of`` that counts. Raises
    ``InvalidMemory`` for a bad filter, of an unknown user's too."""
    check_filter(place.filter)
    cubes = await memories.cubes.own(tenant, place.cubes)
    if not cubes or top_k < 1:
        return []
    ids = [cube.id for cube in cubes.values()]
    hits = await memories.search(tenant, query, ids, top_k=top_k, filter=place.filter or None, **options)
    return [hit for hit in hits if score_of(hit) >= floor]


def score_of(hit: Hit) -> float:
    """Return a hit's score from 0 to 1, as these clients expect it; ours has no upper end."""
    return round(1 - math.exp(-max(0.0, hit.score)), 6)


# -- tasks -----------------------------------------------------------------------------------------------------


def _tag(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_TAG_CHARS]


def task_job_id(user: str, task: str | None = None) -> str:
    """Make an id for a job that can be found again by its user, and by the client's own name of the task: a job that
    has ended holds nothing else of them. In a request with a key, it is that request's."""
    own = once.token()
    return f"job_{_tag(user)}{own[:_TAG_CHARS] if task is None else _tag(task)}{own[-16:]}"


async def jobs_of(memories: MemoryService, tenant: str, user: str | None = None, task: str | None = None) -> list[Job]:
    """Return the tenant's jobs of a user, or of a task (a job's id, or the client's name), newest first."""

    def belongs(job: Job) -> bool:
        tags = job.id.removeprefix("job_")
        if task is not None:
            return job.id == task or tags[_TAG_CHARS : 2 * _TAG_CHARS] == _tag(task)
        return user is None or tags[:_TAG_CHARS] == _tag(user)

    jobs = await memories.jobs.all(tenant, _MAX_JOBS)
    return [job for job in jobs if belongs(job)]


# -- writing ---------------------------------------------------------------------------------------------------


def iso(at: float | None) -> str | None:
    """Write Unix seconds as ISO 8601; None for times before the calendar's beginning or after its end."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        return None

"""The dialect of mem0: what its clients ask of its platform (versions 1 to 3 of the paths), and its own server's REST.

``user_id`` is a cube. Adding to the platform's paths is a job, whose id is the event's; adding to the server's is not.
"""

from __future__ import annotations

import ast
import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field

from memory import AddOutcome, Change, Job, Memory, Message, Said
from memory.errors import InvalidMemory, NotFound
from memory.language.dates import LATEST
from server.bodies import Body, lone_surrogate
from server.conditions import Expected, tagged
from server.routes import mem0_entities, peers
from server.routes.openai import Provided, Tenant
from server.routes.peers import PeerMessages, Where, Whose, iso
from server.routes.peers_deleting import delete_everything
from server.schemas import Name, Text, Time
from server.services import Services

router = APIRouter()
router.include_router(mem0_entities.router)

_QUEUED = "Memory processing has been queued for background execution"
_EVENTS = {"added": "ADD", "superseded": "ADD", "outdated": "ADD", "merged": "UPDATE", "reinforced": "NONE"}
_STATES = {
    "waiting": "PENDING",
    "running": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "cancelled": "FAILED",
}
_REMARKS = {"POSITIVE": "That is right.", "NEGATIVE": "That is wrong.", "VERY_NEGATIVE": "That is wrong."}
# The side store has no way to take a time of expiry back; this is as good as none, and shown as none.
_NEVER = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_MAX_FILTER_CHARS = 4_000
# Whose a memory is, is not changed by its metadata.
_IDENTITY = ("user_id", "agent_id", "run_id", "app_id")


# -- bodies ----------------------------------------------------------------------------------------------------


class Ids(Body):
    """Whose memories; in ``filters`` or beside them."""

    user_id: Name | None = None
    agent_id: Name | None = None
    run_id: Name | None = None
    app_id: Name | None = None
    filters: dict[str, Any] | None = None

    @property
    def whose(self) -> Whose:
        """The ids beside the filters."""
        return Whose(self.user_id, self.agent_id, self.run_id, self.app_id)

    @property
    def where(self) -> Where:
        """Where to look. Raises a 400 when that is everywhere."""
        place = peers.where(self.whose, self.filters)
        return place if self.user_id == "*" else peers.limited(place)


class Add(Ids):
    messages: PeerMessages
    metadata: dict[str, Any] | None = None
    infer: bool = True
    timestamp: Time | None = None
    expiration_date: str | None = None
    async_mode: bool = True

    @property
    def to(self) -> Whose:
        """Whom to add for; here ``filters`` only name ids."""
        given = {name: value for name, value in (self.filters or {}).items() if isinstance(value, str) and value}
        return Whose(
            self.user_id or given.get("user_id"),
            self.agent_id or given.get("agent_id"),
            self.run_id or given.get("run_id"),
            self.app_id or given.get("app_id"),
        )


class Search(Ids):
    query: Annotated[Text, Field(min_length=1, max_length=10_000)]
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] | None = None
    threshold: float | None = None
    categories: list[Text] | None = None
    reference_date: Time | None = None


class List(Ids):
    categories: list[Text] | None = None
    start_date: Time | None = None
    end_date: Time | None = None
    page: Annotated[int, Field(ge=1)] | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] | None = None


class Update(Body):
    """A change. No date of expiry (null) takes an earlier one back."""

    null_means = frozenset({"expiration_date"})

    text: Text | None = None
    data: Text | None = None
    metadata: dict[str, Any] | None = None
    timestamp: Time | None = None
    expiration_date: str | None = None

    def fields(self) -> dict[str, Any]:
        """As the side store takes them."""
        fields: dict[str, Any] = {
            "text": self.data if self.text is None else self.text,
            "metadata": None
            if self.metadata is None
            else {key: value for key, value in self.metadata.items() if key not in _IDENTITY},
            "event_at": peers.unix_time(self.timestamp, "timestamp"),
        }
        if "expiration_date" in self.model_fields_set:
            expires = _expiry(self.expiration_date)
            fields["expires_at"] = _NEVER if expires is None else expires
        return fields


class BatchUpdate(Update):
    memory_id: str


class UpdateMany(Body):
    memories: Annotated[list[BatchUpdate], Field(min_length=1, max_length=1000)]


class BatchId(Body):
    memory_id: str


class DeleteMany(Body):
    memories: Annotated[list[BatchId], Field(min_length=1, max_length=1000)]


class Feedback(Body):
    memory_id: str
    feedback: Literal["POSITIVE", "NEGATIVE", "VERY_NEGATIVE"] | None = None
    feedback_reason: Text | None = None


def _expiry(date: str | None) -> float | None:
    """The end of a day given as YYYY-MM-DD; any other time as it is. Raises ``InvalidMemory``."""
    at = peers.unix_time(date, "expiration_date")
    if at is None or date is None or len(date.strip()) != 10:
        return at
    return min(at + 86_400, LATEST)


def _date(expires: float | None) -> str | None:
    """The last day before a time of expiry."""
    if expires is None or expires >= _NEVER:
        return None
    return (iso(expires - 1) or "")[:10] or None


# -- replies ---------------------------------------------------------------------------------------------------


def _memory_json(memory: Memory, **more: Any) -> dict[str, Any]:
    metadata = dict(memory.metadata)
    return {
        "id": memory.id,
        "memory": memory.text,
        "user_id": memory.owner,
        "agent_id": memory.agent,
        "run_id": memory.session,
        "app_id": metadata.pop("app_id", None),
        "metadata": metadata or None,
        "categories": list(memory.tags),
        "created_at": iso(memory.created_at),
        "updated_at": iso(memory.updated_at),
        "expiration_date": _date(memory.expires_at),
        **more,
    }


def _placed_json(action: str, memory: Memory) -> dict[str, Any]:
    return {"id": memory.id, "memory": memory.text, "event": _EVENTS.get(action, action.upper())}


def _event_json(
    id: str, status: str, created: float, ended: float | None, results: Any, error: str | None = None
) -> dict[str, Any]:
    return {
        "id": id,
        "event_type": "ADD",
        "status": status,
        "results": results,
        "error": error,
        "created_at": iso(created),
        "completed_at": iso(ended),
        "latency": None if ended is None else round((ended - created) * 1e3, 3),
    }


def _step_json(memory: Memory, step: Change, number: int, after: str | None) -> dict[str, Any]:
    events = {"added": "ADD", "updated": "UPDATE", "changed": "UPDATE", "deleted": "DELETE"}
    return {
        "id": f"{memory.id}:{number}",
        "memory_id": memory.id,
        "old_memory": step.text,
        "new_memory": after,
        "event": events.get(step.action, step.action.upper()),
        "user_id": memory.owner,
        "created_at": iso(memory.created_at),
        "updated_at": iso(step.at),
    }


# -- adding ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Addition:
    """A checked body: the cube's name, what was said, and what that has in common."""

    name: str
    messages: list[Message]
    said: Said


def _addition(body: Add) -> _Addition:
    whose = body.to
    said = whose.said(body.metadata, expires=_expiry(body.expiration_date))
    return _Addition(whose.cube, peers.messages_of(body.messages, body.timestamp), said)


async def _queue(body: Add, services: Services, tenant: str) -> Job:
    given = _addition(body)
    id = peers.task_job_id(given.name)
    queue = services.remembering.queue_messages
    return await peers.added_to(
        services, tenant, given.name, lambda cube: queue(tenant, cube, given.messages, given.said, job_id=id)
    )


async def _add(body: Add, services: Services, tenant: str) -> list[AddOutcome]:
    """Add now: what is found in the messages, or (``infer`` false) the messages as they are."""
    given = _addition(body)

    async def add_to(cube: str) -> list[AddOutcome]:
        if body.infer:
            return await services.remembering.add_messages(tenant, cube, given.messages, given.said)
        as_given = [message for message in given.messages if message.role != "system"]
        timed = body.timestamp is not None
        return [await _add_text(services, tenant, cube, message, given.said, timed) for message in as_given]

    return await peers.added_to(services, tenant, given.name, add_to)


async def _add_text(
    services: Services, tenant: str, cube_id: str, message: Message, said: Said, timed: bool
) -> AddOutcome:
    return await services.remembering.add(
        tenant,
        cube_id,
        message.text,
        kind="fact",  # as given: what has a kind is not looked at, and replaces nothing
        owner=said.owner,
        author=message.author,
        agent=said.agent,
        session=said.session,
        event_at=message.sent_at if timed else None,
        metadata={"role": message.role, **(said.metadata or {})},
        expires_at=said.expires_at,
    )


async def _queued_or_added(body: Add, services: Services, tenant: str) -> dict[str, Any]:
    if body.infer:
        job = await _queue(body, services, tenant)
        return {"message": _QUEUED, "status": "PENDING", "event_id": job.id}
    placed = await _add(body, services, tenant)
    return {
        "message": "Memories added",
        "status": "SUCCEEDED",
        # There is no job to wait for; a memory's own id answers clients that ask for the event all the same.
        "event_id": placed[0].memory.id if placed else None,
        "results": [_placed_json(item.action, item.memory) for item in placed],
    }


@router.post("/v3/memories/add/")
async def add_v3(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Keep messages, and find memories in them in a job: its id is the event's. ``infer`` false: now, as given."""
    return await _queued_or_added(body, services, tenant)


@router.post("/v1/memories/")
async def add_v1(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """The same for clients of version 1, with ``async_mode``."""
    if body.async_mode and body.infer:
        return {"results": [await _queued_or_added(body, services, tenant)]}
    return await add(body, services, tenant)


@router.post("/memories")
async def add(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """mem0's server: keep messages and find memories in them, now."""
    placed = await _add(body, services, tenant)
    return {"results": [_placed_json(item.action, item.memory) for item in placed]}


@router.get("/v1/event/{event_id}/")
async def event(event_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """What became of an addition."""
    if event_id.startswith("mem_"):
        memory = await peers.own_memory(services, tenant, event_id)
        results = [{**_placed_json("added", memory), "data": {"memory": memory.text}}]
        return _event_json(memory.id, "SUCCEEDED", memory.created_at, memory.created_at, results)
    job = await asyncio.to_thread(services.memories.jobs.get, tenant, event_id)
    done = {item["id"]: item["action"] for item in job.result or ()}
    memories = await peers.those_of(services, tenant, done)
    results = [{**_placed_json(done[m.id], m), "data": {"memory": m.text}} for m in memories]
    return _event_json(job.id, _STATES[job.status], job.created_at, job.finished_at, results, job.error)


# -- finding ---------------------------------------------------------------------------------------------------


@router.post("/v3/memories/search/")
@router.post("/v2/memories/search/")
@router.post("/search")
async def search(body: Search, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Hybrid search; scores are from 0 to 1, and ``threshold`` is the least that counts (default: any)."""
    at, offset = peers.moment(body.reference_date, "reference_date")
    hits = await peers.found(
        services,
        tenant,
        body.query,
        Where(body.where.cubes, peers.both(body.where.filter, _tagged(body.categories))),
        min(100, body.top_k or body.limit or 10),
        floor=body.threshold or 0.0,
        at=at,
        utc_offset=offset,
    )
    return {"results": [_memory_json(hit.memory, score=peers.score_of(hit)) for hit in hits]}


def _tagged(categories: list[str] | None) -> dict[str, Any]:
    return {"tags": {"in": categories}} if categories else {}


async def _page(body: List, services: Services, tenant: str) -> tuple[list[Memory], int]:
    """One page of what is asked for, the newest first, and how many there are."""
    times = {"gte": body.start_date, "lte": body.end_date}
    span = {op: value for op, value in times.items() if value is not None}
    made = {"created_at": span} if span else {}
    place = Where(body.where.cubes, peers.both(body.where.filter, made, _tagged(body.categories)))
    memories = (await peers.listed(services, tenant, place))[::-1]
    size = body.page_size or 100
    begin = ((body.page or 1) - 1) * size
    return memories[begin : begin + size], len(memories)


@router.post("/v3/memories/")
@router.post("/v2/memories/")
async def list_platform(
    body: List,
    services: Provided,
    tenant: Tenant,
    page: Annotated[int | None, Query(ge=1)] = None,
    page_size: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> dict[str, Any]:
    """Memories, the newest first, in pages."""
    number, size = page or body.page or 1, page_size or body.page_size or 100
    memories, count = await _page(body.model_copy(update={"page": number, "page_size": size}), services, tenant)

    def link(to: int) -> str:
        return f"?page={to}&page_size={size}"

    return {
        "count": count,
        "next": link(number + 1) if number * size < count else None,
        "previous": link(number - 1) if number > 1 else None,
        "results": [_memory_json(memory) for memory in memories],
    }


@router.get("/memories")
async def list_memories(
    services: Provided,
    tenant: Tenant,
    user_id: Name | None = None,
    agent_id: Name | None = None,
    run_id: Name | None = None,
    top_k: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """mem0's server: the newest memories of a user, an agent or a run."""
    body = List(user_id=user_id, agent_id=agent_id, run_id=run_id, page_size=top_k)
    memories, _ = await _page(body, services, tenant)
    return {"results": [_memory_json(memory) for memory in memories]}


@router.get("/v1/memories/{memory_id}/")
@router.get("/memories/{memory_id}")
async def get(memory_id: str, services: Provided, tenant: Tenant, response: Response) -> dict[str, Any]:
    """One memory."""
    memory = await peers.own_memory(services, tenant, memory_id)
    tagged(response, memory)
    return _memory_json(memory)


@router.get("/v1/memories/{memory_id}/history/")
@router.get("/memories/{memory_id}/history")
async def history(memory_id: str, services: Provided, tenant: Tenant) -> list[dict[str, Any]]:
    """What was done to a memory, oldest first."""
    memory = await peers.own_memory(services, tenant, memory_id)
    steps = await asyncio.to_thread(services.memories.history, tenant, memory_id)
    after: str | None = memory.text
    found = []
    for number in range(len(steps) - 1, -1, -1):
        step = steps[number]
        found.append(_step_json(memory, step, number, after))
        after = step.text if step.text is not None else after
    return found[::-1]


# -- changing --------------------------------------------------------------------------------------------------


@router.put("/v1/memories/{memory_id}/")
@router.put("/memories/{memory_id}")
async def update(
    memory_id: str, body: Update, services: Provided, tenant: Tenant, expected: Expected, response: Response
) -> dict[str, Any]:
    """Change a memory; metadata are set key by key. What was computed from its old text is removed before the reply."""
    memory = await services.remembering.update(tenant, memory_id, overlay="set", expected=expected, **body.fields())
    tagged(response, memory)
    return _memory_json(memory, text=memory.text, message="Memory updated successfully!")


@router.delete("/v1/memories/{memory_id}/")
@router.delete("/memories/{memory_id}")
async def delete(memory_id: str, services: Provided, tenant: Tenant, expected: Expected) -> dict[str, Any]:
    """Take a memory out of use, with everything that was computed from it."""
    await services.remembering.delete(tenant, memory_id, expected)
    return {"message": "Memory deleted successfully!"}


@router.delete("/v1/memories/")
@router.delete("/v1/memories")
@router.delete("/memories")
async def delete_all(
    services: Provided,
    tenant: Tenant,
    user_id: Name | None = None,
    agent_id: Name | None = None,
    run_id: Name | None = None,
    app_id: Name | None = None,
    filters: Annotated[str | None, Query(max_length=_MAX_FILTER_CHARS)] = None,
) -> dict[str, Any]:
    """Delete all memories and messages of a user (``*``: of everybody), an agent or a run, at once and for good."""
    ids = Ids(user_id=user_id, agent_id=agent_id, run_id=run_id, app_id=app_id, filters=_filters_of(filters))
    await delete_everything(services, tenant, ids.where)
    return {"message": "Memories deleted successfully!"}


def _filters_of(text: str | None) -> dict[str, Any] | None:
    """Filters in a query string: JSON, or what Python's own clients make of a dict that is put there."""
    if not text:
        return None
    try:
        found = json.loads(text) if text.lstrip().startswith('{"') else ast.literal_eval(text)
        found = json.loads(json.dumps(found))  # a dict of Python's may hold what no JSON object can
        unreadable = not isinstance(found, dict) or lone_surrogate(found) is not None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise InvalidMemory("Filters are an object.", "filters") from error
    if unreadable:
        raise InvalidMemory("Filters are an object, and hold no lone surrogates.", "filters")
    assert isinstance(found, dict)
    return found


async def _all_known(services: Services, tenant: str, ids: list[str]) -> list[Memory]:
    """Raises ``NotFound`` unless all of them are there: a batch is not begun in vain."""
    memories = await peers.those_of(services, tenant, ids)
    known = {memory.id for memory in memories}
    for id in ids:
        if id not in known:
            raise NotFound("memory", id)
    return memories


@router.put("/v1/batch/")
async def update_many(body: UpdateMany, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Change several memories."""
    await _all_known(services, tenant, [item.memory_id for item in body.memories])
    changes = [(item.memory_id, item.fields()) for item in body.memories]
    for id, fields in changes:
        await services.remembering.update(tenant, id, overlay="set", **fields)
    return {"message": f"Successfully updated {len(changes)} memories"}


@router.delete("/v1/batch/")
async def delete_many(body: DeleteMany, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete several memories."""
    memories = await _all_known(services, tenant, [item.memory_id for item in body.memories])
    gone = await services.remembering.remove(tenant, memories)
    return {"message": f"Successfully deleted {len(gone)} memories"}


@router.post("/v1/feedback/")
async def feedback(body: Feedback, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Praise reinforces a memory, blame archives it. The reason is about the memory, so it is not remembered."""
    memory = await peers.own_memory(services, tenant, body.memory_id)
    if body.feedback is not None:
        text = _REMARKS[body.feedback]
        await services.remembering.feedback(tenant, memory.cube_id, text, memory_ids=[memory.id])
    return {"id": memory.id, "feedback": body.feedback, "feedback_reason": body.feedback_reason}


@router.get("/v1/ping/")
async def ping(tenant: Tenant) -> dict[str, Any]:
    """Whether the key is right; clients ask first."""
    return {"status": "ok", "org_id": tenant, "project_id": tenant, "user_email": None}

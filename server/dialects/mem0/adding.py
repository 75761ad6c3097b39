"""Adding by mem0's clients: to the platform's paths a job, whose id is the event's; to the server's at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from memory import AddOutcome, Job, Message, Said
from server.dialects import common
from server.dialects.mem0.bodies import (
    Add,
    expiry,
)
from server.dialects.mem0.replies import event_json, placed_json
from server.http.deps import Provided, Services, Tenant

router = APIRouter()

_QUEUED = "Memory processing has been queued for background execution"
_STATES = {
    "waiting": "PENDING",
    "running": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "cancelled": "FAILED",
}


@dataclass(frozen=True)
class _Addition:
    """A checked body: the cube's name, what was said, and what that has in common."""

    name: str
    messages: list[Message]
    said: Said


def _addition(body: Add) -> _Addition:
    whose = body.to
    said = whose.said(body.metadata, expires=expiry(body.expiration_date))
    return _Addition(whose.cube, common.messages_of(body.messages, body.timestamp), said)


async def _queue(body: Add, services: Services, tenant: str) -> Job:
    given = _addition(body)
    id = common.task_job_id(given.name)
    queue = services.memories.messages.queue
    return await common.added_to(
        services.memories, tenant, given.name, lambda cube: queue(tenant, cube, given.messages, given.said, job_id=id)
    )


async def _add(body: Add, services: Services, tenant: str) -> list[AddOutcome]:
    """Add now: what is found in the messages, or (``infer`` false) the messages as they are."""
    given = _addition(body)

    async def add_to(cube: str) -> list[AddOutcome]:
        if body.infer:
            return await services.memories.messages.add(tenant, cube, given.messages, given.said)
        as_given = [message for message in given.messages if message.role != "system"]
        timed = body.timestamp is not None
        return [await _add_text(services, tenant, cube, message, given.said, timed) for message in as_given]

    return await common.added_to(services.memories, tenant, given.name, add_to)


async def _add_text(
    services: Services, tenant: str, cube_id: str, message: Message, said: Said, timed: bool
) -> AddOutcome:
    return await services.memories.add(
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
        "results": [placed_json(item.action, item.memory) for item in placed],
    }


@router.post("/v3/memories/add/")
async def add_v3(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Keep messages, and extract memories from them in a job, whose id is `event_id`. With `infer` false they are
    stored at once, as given."""
    return await _queued_or_added(body, services, tenant)


@router.post("/v1/memories/")
async def add_v1(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Keep messages, and extract memories from them: in a job, or with `async_mode` false at once."""
    if body.async_mode and body.infer:
        return {"results": [await _queued_or_added(body, services, tenant)]}
    return await add(body, services, tenant)


@router.post("/memories")
async def add(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Keep messages, and extract memories from them at once (mem0's own server)."""
    placed = await _add(body, services, tenant)
    return {"results": [placed_json(item.action, item.memory) for item in placed]}


@router.get("/v1/event/{event_id}/")
async def event(event_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Return what became of an addition."""
    if event_id.startswith("mem_"):
        memory = await services.memories.get(tenant, event_id)
        results = [{**placed_json("added", memory), "data": {"memory": memory.text}}]
        return event_json(memory.id, "SUCCEEDED", memory.created_at, memory.created_at, results)
    job = await services.memories.jobs.get(tenant, event_id)
    done = {item["id"]: item["action"] for item in job.result or ()}
    memories = await services.memories.existing(tenant, done)
    results = [{**placed_json(done[m.id], m), "data": {"memory": m.text}} for m in memories]
    return event_json(job.id, _STATES[job.status], job.created_at, job.finished_at, results, job.error)

"""Memories and messages."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from memory import Change, Hit, Memory, Message, Proof, Said
from server.core import once
from server.core.checks import message_of, moment
from server.core.messages import placed_json
from server.http.conditions import NOT_MODIFIED, Expected, shown, tagged
from server.http.deps import Provided, Tenant
from server.http.describing import Responses
from server.http.errors import ApiError
from server.http.routes.jobs import job_json
from server.http.schemas.memories import MemoryAdd, MemoryChange, MemoryList, MemorySearch, MessagesAdd
from server.http.schemas.memory_replies import (
    ChangeReply,
    HistoryReply,
    HitList,
    HitReply,
    JobReply,
    MemoryAdded,
    MemoryDeleted,
    MemoryPage,
    MemoryReply,
    MessageList,
    MessageReply,
    PlacedList,
    ProofReply,
)

router = APIRouter(prefix="/v1")

QUEUED: Responses = {202: {"model": JobReply, "description": "The messages are in a job"}}


def memory_json(memory: Memory) -> MemoryReply:
    """Return a memory as the API shows it. Times are Unix seconds."""
    return {
        "object": "memory",
        "id": memory.id,
        "cube": memory.cube_id,
        "owner": memory.owner,
        "author": memory.author,
        "agent": memory.agent,
        "session": memory.session,
        "kind": memory.kind,
        "text": memory.text,
        "status": memory.status,
        "pinned": memory.pinned,
        "version": memory.version,
        "revision": memory.revision,
        "created_at": memory.created_at,
        "updated_at": memory.updated_at,
        "event_at": memory.event_at,
        "event_until": memory.event_until,
        "expires_at": memory.expires_at,
        "valid_until": memory.valid_until,
        "replaced_by": memory.replaced_by,
        "importance": memory.importance,
        "uses": memory.uses,
        "tags": list(memory.tags),
        "metadata": memory.metadata,
    }


def message_json(message: Message) -> MessageReply:
    """Return a message as the API shows it."""
    return {
        "object": "message",
        "id": message.id,
        "role": message.role,
        "name": message.author,
        "content": message.text,
        "time": message.sent_at,
        "metadata": message.metadata,
    }


def _change_json(change: Change) -> ChangeReply:
    return {
        "at": change.at,
        "action": change.action,
        "version": change.version,
        "text_before": change.text,
        "detail": change.detail,
    }


def _hit_json(hit: Hit, explain: bool) -> HitReply:
    shown: HitReply = {"memory": memory_json(hit.memory), "score": hit.score, "why": hit.why}
    if explain:
        shown["parts"] = dict(hit.parts)
    return shown


@router.post("/memories", status_code=201)
async def add_memory(body: MemoryAdd, services: Provided, tenant: Tenant, response: Response) -> MemoryAdded:
    """Add a memory; `{"text": "..."}` is enough. It is on disk when the reply comes. The same text twice is two
    memories, unless both requests have the same `Idempotency-Key` or the text states something that only one memory can
    hold."""
    fields = body.model_dump(exclude={"cube", "text"}, exclude_none=True)
    placed = await services.memories.add(tenant, body.cube, body.text, **fields)
    tagged(response, placed.memory)
    return {**memory_json(placed.memory), **placed_json(placed)}


@router.post("/memories/messages", status_code=201, responses=QUEUED)
async def add_messages(
    body: MessagesAdd, services: Provided, tenant: Tenant, response: Response
) -> PlacedList | JobReply:
    """Keep messages, and extract memories from them: now, or with `"wait": false` in a job."""
    messages = [
        message_of(m.said, "system" if m.role == "developer" else m.role, name=m.name, time=m.time, metadata=m.metadata)
        for m in body.messages
    ]
    said = Said(body.session, body.owner, body.agent, tuple(body.tags), body.metadata, body.expires_at)
    own = once.once.get()
    if body.wait and own is None:
        placed = await services.memories.messages.add(tenant, body.cube, messages, said, body.extractor)
        return {"object": "list", "data": [placed_json(item) for item in placed]}
    # A request with a key is a job all the same: one of that name is done once, even if this process ends now.
    job_id = None if own is None else f"job_{own.next()[:24]}"
    job = await services.memories.messages.queue(tenant, body.cube, messages, said, body.extractor, job_id)
    if body.wait:
        job = await services.memories.jobs.wait(tenant, job.id, 60.0)
        if job.status == "completed":
            return {"object": "list", "data": job.result}
        if job.status == "failed":
            raise ApiError(500, f"The messages could not be added: {job.error}.", "add_failed", type="server_error")
    response.status_code = 201 if job.ended else 202
    return job_json(job)


@router.get("/messages")
async def list_messages(
    services: Provided,
    tenant: Tenant,
    cube: str | None = None,
    session: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> MessageList:
    """List the last messages of a cube, or of one conversation in it, oldest first."""
    messages = await services.memories.messages.latest(tenant, cube, session, limit)
    return {"object": "list", "data": [message_json(message) for message in messages]}


@router.get("/memories")
async def list_memories(
    services: Provided,
    tenant: Tenant,
    cube: str | None = None,
    kind: str | None = None,
    status: Literal["active", "merged", "archived", "deleted"] = "active",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: str | None = None,
) -> MemoryPage:
    """List memories in order of creation. To get the next page, pass `next` as `after`."""
    body = MemoryList(cube=cube, kind=kind, status=status, limit=limit, after=after)
    return await filter_memories(body, services, tenant)


@router.post("/memories/list")
async def filter_memories(body: MemoryList, services: Provided, tenant: Tenant) -> MemoryPage:
    """List memories that a filter lets through, in order of creation. To get the next page, pass `next` as `after`."""
    options = body.model_dump(include={"kind", "status", "limit", "after", "filter"})
    page = await services.memories.page(tenant, body.cube, **options)
    return {"object": "list", "data": [memory_json(item) for item in page.items], "next": page.next}


@router.post("/memories/search")
async def search_memories(body: MemorySearch, services: Provided, tenant: Tenant) -> HitList:
    """Search one or several cubes (default: the key's default cube) by meaning, words, names and time."""
    at, offset = moment(body.at, "at")
    hits = await services.memories.search(
        tenant,
        body.query,
        [body.cube] if isinstance(body.cube, str) else body.cube,
        top_k=body.top_k,
        kinds=body.kinds,
        filter=body.filter,
        at=at,
        utc_offset=offset,
        hops=body.hops,
        diversity=body.diversity,
        relevant=body.relevant,
    )
    return {"object": "list", "data": [_hit_json(hit, body.explain) for hit in hits]}


@router.get("/memories/{memory_id}", response_model=MemoryReply, responses=NOT_MODIFIED)
async def get_memory(
    memory_id: str, services: Provided, tenant: Tenant, request: Request, response: Response
) -> Response | MemoryReply:
    """Return a memory. Its `ETag` is its revision; `If-None-Match` makes an unchanged one a 304."""
    memory = await services.memories.get(tenant, memory_id)
    return shown(request, response, memory, memory_json(memory))


@router.get("/memories/{memory_id}/history")
async def history(memory_id: str, services: Provided, tenant: Tenant) -> HistoryReply:
    """Return the changes of a memory, oldest first, and the messages that it was extracted from."""
    changes = await services.memories.history(tenant, memory_id)
    sources = await services.memories.sources(tenant, memory_id)
    return {
        "object": "list",
        "data": [_change_json(change) for change in changes],
        "sources": [message_json(message) for message in sources],
    }


@router.patch("/memories/{memory_id}")
async def change_memory(
    memory_id: str, body: MemoryChange, services: Provided, tenant: Tenant, expected: Expected, response: Response
) -> MemoryReply:
    """Change the fields that are given. `metadata` is a JSON Merge Patch (null removes a key), or with
    `replace_metadata` the whole of it. Keys and values computed from the old text are removed before the reply."""
    fields = body.model_dump(exclude_unset=True, exclude={"replace_metadata"})
    overlay = "replace" if body.replace_metadata else "merge"
    memory = await services.memories.update(tenant, memory_id, overlay=overlay, expected=expected, **fields)
    tagged(response, memory)
    return memory_json(memory)


@router.delete("/memories/{memory_id}")
async def delete_memory(
    memory_id: str, services: Provided, tenant: Tenant, expected: Expected, forget: bool = False
) -> MemoryDeleted:
    """Delete a memory and the keys and values computed from it. It can be undeleted for `undelete_s` seconds; with
    `forget=true` it is overwritten at once, and the reply holds the proof."""
    if forget:
        proof, removed, left = await services.memories.forget(tenant, memory_id, expected)
        return {**_deleted_json(memory_id, removed), "proof": _proof_json(proof, left)}
    _, removed = await services.memories.delete(tenant, memory_id, expected)
    return {**_deleted_json(memory_id, removed), "undelete_s": services.memories.undelete_s}


def _deleted_json(memory_id: str, removed: int) -> MemoryDeleted:
    return {"object": "memory.deleted", "id": memory_id, "deleted": True, "segments_removed": removed}


def _proof_json(proof: Proof, segments: int) -> ProofReply:
    found = proof.as_json()
    return {
        "memory": found["memory"],
        "digest": found["digest"],
        "found": {**found["found"], "segments": segments},
        "clean": found["clean"] and not segments,
        "covers": found["covers"],
        "at": found["at"],
    }


@router.post("/memories/{memory_id}/undelete")
async def undelete_memory(memory_id: str, services: Provided, tenant: Tenant, response: Response) -> MemoryReply:
    """Bring a deleted memory back."""
    memory = await services.memories.undelete(tenant, memory_id)
    tagged(response, memory)
    return memory_json(memory)

"""The dialect of MemOS's own server, under ``/product``: cubes by name, an envelope of code, message and data.

A cube that is not named is the user's. What MemOS keeps apart (preferences, tool memories) are kinds here; activation
memory is not listed, since every memory is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from memory import AddOutcome, Cube, Hit, Job, Memory, Said
from memory.errors import InvalidMemory, NotFound
from server.bodies import Body
from server.errors import ApiError
from server.routes import memos_chat, peers
from server.routes.memos_chat import Asked, ChatFields, MemosFormat
from server.routes.openai import Provided, Tenant
from server.routes.peers import OTHER_KINDS, PREFERENCES, TOOLS, PeerMessage, PeerMessages, Where, Whose, iso
from server.routes.peers_deleting import delete_in
from server.schemas import Name, Text, Time
from server.services import Services

router = APIRouter(prefix="/product")

_TYPES = {"preference": "PreferenceMemory", "tool": "ToolTrajectoryMemory", "profile": "UserMemory"}
_TASKS = {"running": "in_progress"}
_OPEN = ("waiting", "in_progress")


def type_of(memory: Memory) -> str:
    """The name of a memory's kind in MemOS."""
    return _TYPES.get(memory.kind, "LongTermMemory")


def status_of(memory: Memory) -> str:
    """The name of a memory's status in MemOS."""
    return {"active": "activated", "merged": "archived"}.get(memory.status, memory.status)


def _ok(message: str, data: Any) -> dict[str, Any]:
    return {"code": 200, "message": message, "data": data}


# -- bodies ----------------------------------------------------------------------------------------------------

Names = Annotated[list[Name], Field(max_length=100)]


class Add(Body):
    user_id: Name
    session_id: Name | None = None
    task_id: Name | None = None
    writable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None
    async_mode: Literal["async", "sync"] = "async"
    custom_tags: list[Text] | None = None
    info: dict[str, Any] | None = None
    messages: PeerMessages | None = None
    memory_content: Text | None = None
    chat_history: PeerMessages | None = None
    is_feedback: bool = False

    @property
    def said(self) -> Said:
        return Whose(user=self.user_id, run=self.session_id).said(self.info, self.custom_tags or ())


class Search(Body):
    query: Annotated[Text, Field(min_length=1, max_length=10_000)]
    user_id: Name
    readable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None
    top_k: Annotated[int, Field(ge=1)] = 10
    relativity: Annotated[float, Field(ge=0)] | None = None
    include_preference: bool = True
    pref_top_k: Annotated[int, Field(ge=0)] = 6
    search_tool_memory: bool = True
    tool_mem_top_k: Annotated[int, Field(ge=0)] = 6
    filter: dict[str, Any] | None = None
    reference_time: Time | None = None


class Chat(ChatFields):
    readable_cube_ids: Names | None = None
    writable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None
    history: list[PeerMessage] | None = None
    top_k: Annotated[int, Field(ge=0)] = 10
    session_id: Name | None = None
    model_name_or_path: str | None = None


class GetMemory(Body):
    mem_cube_id: Name
    user_id: Name | None = None
    include_preference: bool = True
    include_tool_memory: bool = True
    filter: dict[str, Any] | None = None
    page: Annotated[int, Field(ge=1)] | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] | None = None


class GetAll(Body):
    user_id: Name
    memory_type: Literal["text_mem", "act_mem", "param_mem", "para_mem"]
    mem_cube_ids: Names | None = None
    search_query: Annotated[Text, Field(max_length=10_000)] | None = None


class Delete(Body):
    writable_cube_ids: Names | None = None
    memory_ids: Annotated[list[str], Field(max_length=1000)] | None = None
    file_ids: list[str] | None = None
    filter: dict[str, Any] | None = None
    user_id: Name | None = None
    session_id: Name | None = None
    conversation_id: Name | None = None


class Feedback(Body):
    user_id: Name
    feedback_content: Text
    retrieved_memory_ids: Annotated[list[str], Field(max_length=100)] | None = None
    feedback_time: Time | None = None
    writable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None


class NewCube(Body):
    cube_name: Name
    owner_id: Name
    cube_id: Name | None = None


class CubeId(Body):
    mem_cube_id: Name


class Recover(CubeId):
    delete_record_id: str


def _names(several: Sequence[str] | None, one: str | None, user: str) -> tuple[str, ...]:
    """Which cubes are meant; the user's own where none is named."""
    return tuple(dict.fromkeys(several or ([user] if one is None else [one])))


# -- replies ---------------------------------------------------------------------------------------------------


def _item(memory: Memory, relativity: float | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "id": memory.id,
        "memory": memory.text,
        "memory_type": type_of(memory),
        "status": status_of(memory),
        "user_id": memory.owner,
        "session_id": memory.session,
        "tags": list(memory.tags),
        "info": memory.metadata,
        "created_at": iso(memory.created_at),
        "updated_at": iso(memory.updated_at),
        "version": memory.version,
    }
    if relativity is not None:
        metadata["relativity"] = relativity
    return {"id": memory.id, "memory": memory.text, "metadata": metadata, "ref_id": f"[{memory.id}]"}


def _bucket(cube: str, items: list[dict[str, Any]], total: int | None = None) -> dict[str, Any]:
    return {"cube_id": cube, "memories": items, "total_nodes": len(items) if total is None else total}


def _bucketed(hits: Sequence[Hit], cubes: dict[str, Cube]) -> list[dict[str, Any]]:
    """Hits by the cube they are in, best first in each."""
    return [
        _bucket(name, [_item(hit.memory, peers.score_of(hit)) for hit in hits if hit.memory.cube_id == cube.id])
        for name, cube in cubes.items()
    ]


# -- adding ----------------------------------------------------------------------------------------------------


@router.post("/add")
async def add(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Keep messages and what is found in them, in jobs or (``sync``) now; ``memory_content`` is kept as it is."""
    names = _names(body.writable_cube_ids, body.mem_cube_id, body.user_id)
    if body.messages is None and body.memory_content is None:
        raise InvalidMemory("There are neither messages nor memory_content.", "messages")
    if body.is_feedback and body.messages is not None:
        text = peers.messages_of(body.messages)[-1].text
        return _ok("Memory feedback successfully", await _give(services, tenant, names, text))
    data = []
    for name in names:
        add = partial(_add_to, name, body, services, tenant)
        data += await peers.added_to(services, tenant, name, add)
    return _ok("Memory added successfully", data)


async def _add_to(name: str, body: Add, services: Services, tenant: str, cube: str) -> list[dict[str, Any]]:
    said = body.said
    messages = [] if body.messages is None else peers.messages_of(body.messages)
    done: list[dict[str, Any]] = []
    placed: list[AddOutcome] = []
    if body.memory_content is not None:
        fields: dict[str, Any] = {
            "owner": said.owner,
            "session": said.session,
            "tags": said.tags,
            "metadata": said.metadata,
        }
        placed = [await services.remembering.add(tenant, cube, body.memory_content, kind="fact", **fields)]
    if messages and body.async_mode == "sync":
        placed += await services.remembering.add_messages(tenant, cube, messages, said)
    elif messages:
        id = peers.task_job_id(body.user_id, body.task_id)
        job = await services.remembering.queue_messages(tenant, cube, messages, said, job_id=id)
        done.append({"cube_id": name, "task_id": body.task_id or job.id, "status": _task_status(job)})
    done += [
        {
            "cube_id": name,
            "memory": item.memory.text,
            "memory_id": item.memory.id,
            "memory_type": type_of(item.memory),
            "action": item.action,
        }
        for item in placed
    ]
    return done


@router.post("/feedback")
async def feedback(body: Feedback, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Do what is said of memories: of those that were retrieved, or of those in the cubes that it is about."""
    names = _names(body.writable_cube_ids, body.mem_cube_id, body.user_id)
    at = peers.unix_time(body.feedback_time, "feedback_time")
    ids = body.retrieved_memory_ids or []
    return _ok("Feedback completed successfully", await _give(services, tenant, names, body.feedback_content, ids, at))


async def _give(
    services: Services,
    tenant: str,
    names: Sequence[str],
    text: str,
    memory_ids: Sequence[str] = (),
    at: float | None = None,
) -> list[dict[str, Any]]:
    """Feedback to each cube, on those of the memories that are in it. Raises ``NotFound`` for ids of nobody's."""
    memories = [await peers.own_memory(services, tenant, id) for id in dict.fromkeys(memory_ids)]
    records = []
    for name in names:
        cube = await peers.cube_for(services, tenant, name)
        ids = [memory.id for memory in memories if memory.cube_id == cube.id]
        outcome = await services.remembering.feedback(tenant, cube.id, text, memory_ids=ids, at=at)
        done = [{"id": action.memory_id, "action": action.action} for action in outcome.actions]
        added = [item for item in done if item["action"] == "added"]
        record = {"add": added, "update": [item for item in done if item["id"] and item not in added]}
        records.append({"cube_id": name, "task_id": outcome.id, "record": record})
    return records


# -- finding ---------------------------------------------------------------------------------------------------


@router.post("/search")
async def search(body: Search, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Hybrid search in each kind of memory; ``relativity`` is the least score that counts (default: any)."""
    names = _names(body.readable_cube_ids, body.mem_cube_id, body.user_id)
    cubes = await peers.cubes_at(services, tenant, names)
    place = Where(tuple(cubes), peers.translated(body.filter or {}))
    at, offset = peers.moment(body.reference_time, "reference_time")

    async def of(kinds: Sequence[str], top_k: int) -> list[dict[str, Any]]:
        hits = await peers.found(
            services,
            tenant,
            body.query,
            place,
            min(100, top_k),
            floor=body.relativity or 0.0,
            kinds=kinds,
            at=at,
            utc_offset=offset,
        )
        return _bucketed(hits, cubes)

    data = {
        "text_mem": await of(OTHER_KINDS, body.top_k),
        "act_mem": [],
        "para_mem": [],
        "pref_mem": await of(PREFERENCES, body.pref_top_k if body.include_preference else 0),
        "tool_mem": await of(TOOLS, body.tool_mem_top_k if body.search_tool_memory else 0),
        "skill_mem": [],
        "pref_note": "",
        "pref_string": "",
    }
    return _ok("Search completed successfully", data)


@router.post("/chat/complete")
async def chat_complete(body: Chat, request: Request, services: Provided, tenant: Tenant) -> Response:
    """Chat with the memories of the readable cubes in the prompt."""
    asked = Asked(
        body,
        Whose(user=body.user_id, run=body.session_id),
        _names(body.readable_cube_ids, body.mem_cube_id, body.user_id),
        _names(body.writable_cube_ids, body.mem_cube_id, body.user_id),
        body.top_k,
        body.model_name_or_path,
        body.history or (),
    )
    format = MemosFormat(200, "Chat completed successfully")
    return await memos_chat.chat(asked, request, services, tenant, format)


@router.get("/get_memory/{memory_id}")
async def get_memory(memory_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """One memory."""
    return _ok("Memory retrieved successfully", _item(await peers.own_memory(services, tenant, memory_id)))


@router.post("/get_memory_by_ids")
async def get_memory_by_ids(
    body: Annotated[list[Text], Field(max_length=1000)], services: Provided, tenant: Tenant
) -> dict[str, Any]:
    """Those of these memories that there are."""
    memories = await peers.those_of(services, tenant, body)
    return _ok("Memories retrieved successfully", {"memories": [_item(memory) for memory in memories]})


@router.post("/get_memory")
async def get_memories(body: GetMemory, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """The memories of a cube by kind, each kind in pages."""
    filter = peers.translated(body.filter or {})
    if body.user_id not in (None, body.mem_cube_id):
        filter = peers.both(filter, {"owner": body.user_id})
    memories = await peers.listed(services, tenant, Where((body.mem_cube_id,), filter))

    def of(kinds: Sequence[str]) -> list[dict[str, Any]]:
        wanted = [memory for memory in memories if memory.kind in kinds]
        begin = 0 if body.page is None else (body.page - 1) * (body.page_size or 10)
        end = None if body.page is None and body.page_size is None else begin + (body.page_size or 10)
        return [_bucket(body.mem_cube_id, [_item(memory) for memory in wanted[begin:end]], len(wanted))]

    data = {
        "text_mem": of(OTHER_KINDS),
        "pref_mem": of(PREFERENCES) if body.include_preference else [],
        "tool_mem": of(TOOLS) if body.include_tool_memory else [],
        "skill_mem": [],
    }
    return _ok("Memories retrieved successfully", data)


@router.post("/get_all")
async def get_all(body: GetAll, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """All memories of the user's cube, or the best ones for a query, as a graph without edges."""
    message = "Memories retrieved successfully"
    if body.memory_type != "text_mem":
        return _ok(message, [])
    cubes = await peers.cubes_at(services, tenant, _names(body.mem_cube_ids, None, body.user_id))
    data = []
    for name in cubes:
        place = Where((name,), {})
        if body.search_query and body.search_query.strip():
            hits = await peers.found(services, tenant, body.search_query, place, 100)
            items = [_item(hit.memory, peers.score_of(hit)) for hit in hits]
        else:
            items = [_item(memory) for memory in await peers.listed(services, tenant, place)]
        data.append({"cube_id": name, "memories": [{"nodes": items, "edges": [], "total_nodes": len(items)}]})
    return _ok(message, data)


# -- deleting --------------------------------------------------------------------------------------------------


@router.post("/delete_memory")
async def delete_memory(body: Delete, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete memories by id, or all that a filter, a user and a session let through."""
    if body.file_ids is not None:
        raise ApiError(400, "file_ids: there are no files in this dialect here.", "unsupported", param="file_ids")
    session = body.session_id or body.conversation_id
    by_filter = bool(body.filter) or body.user_id is not None or session is not None
    if (body.memory_ids is not None) == by_filter:
        raise ApiError(400, "Give either memory_ids, or filter, user_id or session_id.", "invalid_value")
    if body.memory_ids is not None:
        memories = await peers.those_of(services, tenant, body.memory_ids)
        if body.memory_ids and not memories:
            raise NotFound("memory", body.memory_ids[0])
        memories = await services.remembering.remove(tenant, memories)
    else:
        whose = Whose(body.user_id, run=session)
        memories = await delete_in(services, tenant, body.writable_cube_ids or (), whose, body.filter)
    data = {"status": "success", "record_ids": [memory.id for memory in memories]}
    return _ok("Memories deleted successfully", data)


@router.post("/recover_memory_by_record_id")
async def recover_memory(body: Recover, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Bring a deleted memory back. The record's id is the memory's."""

    def recover() -> Memory:
        wanted = {"id": body.delete_record_id}
        cube = services.memories.cubes.own(tenant, body.mem_cube_id)
        if not services.memories.list_memories(tenant, cube.id, status="deleted", filter=wanted, limit=1).items:
            raise NotFound("deleted memory", body.delete_record_id)
        return services.memories.undelete(tenant, body.delete_record_id)

    memory = await asyncio.to_thread(recover)
    return _ok("Called Successfully", {"status": "success", "memory_id": memory.id})


# -- cubes -----------------------------------------------------------------------------------------------------


@router.post("/create_cube")
async def create_cube(body: NewCube, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Add a cube. Its id in this dialect is its name here: the one that the client chooses, else the cube's."""
    cube = await asyncio.to_thread(services.memories.cubes.create, tenant, body.cube_id or body.cube_name)
    data = {"cube_id": cube.name, "cube_name": body.cube_name, "owner_id": body.owner_id}
    return _ok("Cube created successfully", data)


@router.post("/exist_mem_cube_id")
async def exist_mem_cube_id(body: CubeId, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Tell if there is a cube of that name."""
    found = await peers.cubes_at(services, tenant, [body.mem_cube_id])
    return _ok("Successfully", {body.mem_cube_id: bool(found)})


# -- jobs ------------------------------------------------------------------------------------------------------


def _task_status(job: Job) -> str:
    return _TASKS.get(job.status, job.status)


def _joint_status(jobs: Sequence[Job]) -> str:
    """The status of a task of several jobs: how far the worst of them is."""
    found = {_task_status(job) for job in jobs}
    order = ("failed", "in_progress", "waiting", "cancelled", "completed")
    return next(status for status in order if status in found)


def _summary(jobs: Sequence[Job]) -> dict[str, int]:
    counts = dict.fromkeys(("waiting", "in_progress", "pending", "completed", "failed", "cancelled"), 0)
    for job in jobs:
        counts[_task_status(job)] += 1
    return {**counts, "total": len(jobs)}


@router.get("/scheduler/status")
async def scheduler_status(
    services: Provided, tenant: Tenant, user_id: Name, task_id: str | None = None
) -> dict[str, Any]:
    """The status of a task, by the id it was given or by the client's own; or of all that were added for a user."""
    if task_id is None:
        jobs = await peers.jobs_of(services, tenant, user=user_id)
        data = [{"task_id": job.id, "status": _task_status(job)} for job in jobs]
    else:
        jobs = await peers.jobs_of(services, tenant, task=task_id)
        if not jobs:
            raise NotFound("task", task_id)
        data = [{"task_id": task_id, "status": _joint_status(jobs)}]
    return _ok("Memory get status successfully", data)


@router.get("/scheduler/allstatus")
async def scheduler_allstatus(services: Provided, tenant: Tenant) -> dict[str, Any]:
    """How many of the key's jobs there are of each status."""
    summary = _summary(await peers.jobs_of(services, tenant))
    data = {"scheduler_summary": summary, "all_tasks_summary": summary}
    return _ok("Scheduler status summary retrieved successfully", data)


@router.get("/scheduler/task_queue_status")
async def task_queue_status(services: Provided, tenant: Tenant, user_id: Name) -> dict[str, Any]:
    """How many of a user's jobs are being done, and how many wait."""
    summary = _summary(await peers.jobs_of(services, tenant, user=user_id))
    pending, remaining = summary["in_progress"], summary["waiting"]
    data = {
        "user_id": user_id,
        "user_name": None,
        "mem_cube_id": None,
        "stream_keys": ["messages"],
        "users_count": 1 if pending or remaining else 0,
        "pending_tasks_count": pending,
        "remaining_tasks_count": remaining,
        "pending_tasks_detail": [f"messages:{pending}"],
        "remaining_tasks_detail": [f"messages:{remaining}"],
    }
    return _ok("Scheduler task queue status retrieved successfully", data)


@router.post("/scheduler/wait")
async def scheduler_wait(
    services: Provided, tenant: Tenant, user_name: Name, timeout_seconds: Annotated[float, Query(ge=0, le=600)] = 120.0
) -> dict[str, Any]:
    """Wait until all that was added for a user is done."""
    begin = time.monotonic()
    running = 0
    for job in reversed(await peers.jobs_of(services, tenant, user=user_name)):
        left = max(0.0, timeout_seconds - (time.monotonic() - begin))
        if not job.ended and not (await services.remembering.jobs.wait(tenant, job.id, left)).ended:
            running += 1
    data = {
        "running_tasks": running,
        "waited_seconds": round(time.monotonic() - begin, 3),
        "timed_out": running > 0,
        "user_name": user_name,
    }
    return _ok("timeout" if running else "idle", data)

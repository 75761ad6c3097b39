"""The dialect of MemOS's hosted service, which its Python client speaks: ``/api/openmem/v1``, code 0 for success."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from memory import Job, Memory, NotFound
from server.core.checks import unix_time
from server.dialects import common, memos_chat
from server.dialects.common import OTHER_KINDS, PREFERENCES, TOOLS, ClientIds, PeerMessages, Selection
from server.dialects.deleting import delete_everything
from server.dialects.memos_chat import Asked, ChatFields, MemosFormat
from server.dialects.memos_product.replies import status_of, type_of
from server.http.bodies import Body
from server.http.deps import Provided, Tenant
from server.http.errors import ApiError
from server.http.schemas.fields import Name, Text, Time

router = APIRouter(prefix="/api/openmem/v1")

# Clients give up after 30 seconds.
_WAIT_S = 25.0
_STATES = {"waiting": "running", "cancelled": "failed"}
_KEY_CHARS = 60


def _ok(data: Any) -> dict[str, Any]:
    return {"code": 0, "message": "ok", "data": data}


# -- bodies ----------------------------------------------------------------------------------------------------

Limit = Annotated[int, Field(ge=0, le=100)]
Several = Name | Annotated[list[Name], Field(min_length=1, max_length=100)]


class Subject(Body):
    """A user, an agent, or both: whose memories are meant."""

    user_id: Name | None = None
    agent_id: Name | None = None
    app_id: Name | None = None

    def selection(self, filter: dict[str, Any] | None = None) -> Selection:
        """Return the place to look in. Raises a 400 when nobody is named."""
        if self.user_id is None and self.agent_id is None:
            raise ApiError(400, "user_id or agent_id is needed.", "invalid_value", param="user_id")
        return common.selection_of(ClientIds(self.user_id, self.agent_id, app=self.app_id), filter)


class AddMessage(Body):
    messages: PeerMessages
    user_id: Several | None = None
    agent_id: Several | None = None
    app_id: Name | None = None
    conversation_id: Name | None = None
    info: dict[str, Any] | None = None
    tags: list[Text] | None = None
    async_mode: bool = True

    @property
    def whose(self) -> list[ClientIds]:
        """Return one for each user, or for each agent when there is no user."""
        users, agents = _several(self.user_id), _several(self.agent_id)
        agent = agents[0] if len(agents) == 1 else None
        if users:
            return [ClientIds(user, agent, self.conversation_id, self.app_id) for user in users]
        return [ClientIds(None, each, self.conversation_id, self.app_id) for each in agents]


class SearchMemory(Subject):
    query: Annotated[Text, Field(min_length=1, max_length=10_000)]
    memory_limit_number: Limit = 9
    include_preference: bool = True
    preference_limit_number: Limit = 9
    include_tool_memory: bool = False
    tool_memory_limit_number: Limit = 6
    relativity: Annotated[float, Field(ge=0)] | None = None
    filter: dict[str, Any] | None = None


class GetMessage(Body):
    user_id: Name
    conversation_id: Name | None = None
    message_limit_number: Annotated[int, Field(ge=1, le=50)] | None = None


class GetMemory(Subject):
    page: Annotated[int, Field(ge=1)] = 1
    size: Annotated[int, Field(ge=1, le=50)] = 10
    include_preference: bool = True
    include_tool_memory: bool = True
    filter: dict[str, Any] | None = None


class AddFeedback(Body):
    user_id: Name
    feedback_content: Text
    conversation_id: Name | None = None
    feedback_time: Time | None = None


class DeleteMemory(Subject):
    memory_ids: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None
    filter: dict[str, Any] | None = None


class UpdateMemory(Body):
    memory_id: str
    content: Text | None = None
    title: Text | None = None
    status: Literal["activated", "archived"] | None = None


class Status(Body):
    task_id: str


class Chat(ChatFields):
    conversation_id: Name | None = None
    agent_id: Name | None = None
    app_id: Name | None = None
    model_name: str | None = None
    memory_limit_number: Limit = 9
    tags: list[Text] | None = None
    info: dict[str, Any] | None = None
    stream: bool = False


def _several(ids: str | list[str] | None) -> list[str]:
    return [] if ids is None else [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))


# -- replies ---------------------------------------------------------------------------------------------------


def _millis(at: float) -> int:
    return int(at * 1e3)


def _common(memory: Memory, relativity: float | None) -> dict[str, Any]:
    shown = {
        "id": memory.id,
        "create_time": _millis(memory.created_at),
        "update_time": _millis(memory.updated_at),
        "conversation_id": memory.session or "",
        "status": status_of(memory),
        "tags": list(memory.tags),
        "info": memory.metadata,
    }
    return shown if relativity is None else {**shown, "relativity": relativity}


def _memory_json(memory: Memory, relativity: float | None = None) -> dict[str, Any]:
    key = memory.metadata.get("title") or memory.text[:_KEY_CHARS]
    shown = {"memory_key": key, "memory_value": memory.text, "memory_type": type_of(memory)}
    return {**_common(memory, relativity), **shown, "confidence": memory.importance}


def _preference_json(memory: Memory, relativity: float | None = None) -> dict[str, Any]:
    shown = {"preference_type": "explicit_preference", "preference": memory.text, "reasoning": ""}
    return {**_common(memory, relativity), **shown}


def _tool_json(memory: Memory, relativity: float | None = None) -> dict[str, Any]:
    shown = {"tool_type": type_of(memory), "tool_value": memory.text, "tool_used_status": [], "experience": ""}
    return {**_common(memory, relativity), **shown}


def _lists(memories: Sequence[tuple[Memory, float | None]]) -> dict[str, Any]:
    """Sort memories into the lists that the client reads, by kind."""
    return {
        "memory_detail_list": [_memory_json(m, score) for m, score in memories if m.kind in OTHER_KINDS],
        "preference_detail_list": [_preference_json(m, score) for m, score in memories if m.kind in PREFERENCES],
        "tool_memory_detail_list": [_tool_json(m, score) for m, score in memories if m.kind in TOOLS],
        "skill_detail_list": [],
    }


def _task(id: str, status: str) -> dict[str, Any]:
    return {"success": status != "failed", "task_id": id, "status": status}


def _status(job: Job) -> str:
    return _STATES.get(job.status, job.status)


# -- routes ----------------------------------------------------------------------------------------------------


@router.post("/add/message")
async def add_message(body: AddMessage, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Keep messages, and extract memories from them in a job; with `async_mode` false the reply comes when it is
    done."""
    owners = body.whose
    if not owners:
        raise ApiError(400, "user_id or agent_id is needed.", "invalid_value", param="user_id")
    # A message is kept in one cube: each owner gets messages of its own.
    additions = [(w.cube, w.said(body.info, body.tags or ()), common.messages_of(body.messages)) for w in owners]
    for name, said, messages in additions:
        queue = partial(
            services.memories.messages.queue,
            tenant,
            messages=messages,
            said=said,
            job_id=common.task_job_id(name),
        )
        # Jobs are done one after the other: when the last one is done, all are.
        job = await common.added_to(services.memories, tenant, name, queue)
    if not body.async_mode:
        job = await services.memories.jobs.wait(tenant, job.id, _WAIT_S)
        if job.status == "failed":
            raise ApiError(500, f"The messages could not be added: {job.error}.", "add_failed", type="server_error")
    return _ok(_task(job.id, _status(job)))


@router.post("/search/memory")
async def search_memory(body: SearchMemory, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Search each kind of memory. `relativity` is the least score that counts (default: any)."""
    place = body.selection(body.filter)
    hits = []
    for kinds, limit in (
        (OTHER_KINDS, body.memory_limit_number),
        (PREFERENCES, body.preference_limit_number if body.include_preference else 0),
        (TOOLS, body.tool_memory_limit_number if body.include_tool_memory else 0),
    ):
        floor = body.relativity or 0.0
        hits += await common.found(services.memories, tenant, body.query, place, limit, floor=floor, kinds=kinds)
    found = _lists([(hit.memory, common.score_of(hit)) for hit in hits])
    return _ok({**found, "message_detail_list": [], "preference_note": ""})


@router.post("/get/message")
async def get_message(body: GetMessage, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """List the last messages of a user, or of one conversation, oldest first."""
    limit = body.message_limit_number or 6
    found = []
    for cube in (await services.memories.cubes.own(tenant, [body.user_id])).values():
        found = await services.memories.messages.latest(tenant, cube.id, body.conversation_id, limit)
    details = [
        {
            "id": message.id,
            "role": message.role,
            "content": message.text,
            "create_time": _millis(message.sent_at),
            "update_time": _millis(message.sent_at),
        }
        for message in found
    ]
    return _ok({"message_detail_list": details})


@router.post("/get/memory")
async def get_memories(body: GetMemory, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """List the memories of a user or an agent in pages, newest first."""
    unwanted = {
        *(() if body.include_preference else PREFERENCES),
        *(() if body.include_tool_memory else TOOLS),
    }
    memories = await common.listed(services.memories, tenant, body.selection(body.filter))
    wanted = [memory for memory in reversed(memories) if memory.kind not in unwanted]
    begin = (body.page - 1) * body.size
    pages = {"total": len(wanted), "size": body.size, "current": body.page, "pages": -(-len(wanted) // body.size)}
    return _ok({**_lists([(memory, None) for memory in wanted[begin : begin + body.size]]), **pages})


@router.get("/get/memory/{memory_id}")
async def get_memory(memory_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Return a memory."""
    return _ok(_memory_json(await services.memories.get(tenant, memory_id)))


@router.post("/add/feedback")
async def add_feedback(body: AddFeedback, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Give feedback on a user's memories in plain words. It is done when the reply comes."""
    cube = await services.memories.cubes.named(tenant, body.user_id)
    at = unix_time(body.feedback_time, "feedback_time")
    outcome = await services.memories.feedback.give(tenant, cube.id, body.feedback_content, at=at)
    return _ok(_task(outcome.id, "completed"))


@router.post("/delete/memory")
async def delete_memory(body: DeleteMemory, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete memories by id, or all of a user, of an agent, or that a filter lets through."""
    ways = [body.memory_ids is not None, body.user_id is not None, body.agent_id is not None, bool(body.filter)]
    if sum(ways) != 1:
        raise ApiError(400, "Give one of memory_ids, user_id, agent_id and filter.", "invalid_value")
    if body.memory_ids is not None:
        memories = await services.memories.existing(tenant, body.memory_ids)
        if not memories:
            raise NotFound("memory", body.memory_ids[0])
        await services.memories.remove(tenant, memories)
    else:
        place = common.selection_of(ClientIds(body.user_id, body.agent_id), body.filter)
        await delete_everything(services.memories, tenant, common.limited(place))
    return _ok({"success": True})


@router.post("/update/memory")
async def update_memory(body: UpdateMemory, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Change a memory's text, title or status."""
    fields: dict[str, Any] = {"text": body.content}
    if body.title is not None:
        fields["metadata"] = {"title": body.title}
    if body.status is not None:
        fields["status"] = "active" if body.status == "activated" else "archived"
    return _ok(_memory_json(await services.memories.update(tenant, body.memory_id, overlay="set", **fields)))


@router.post("/get/status")
async def get_status(body: Status, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Return the state of a task. Feedback is done as soon as it has an id."""
    if body.task_id.startswith("fb_"):
        if not await services.memories.feedback.is_known(tenant, body.task_id):
            raise NotFound("task", body.task_id)
        return _ok({"task_id": body.task_id, "status": "completed"})
    job = await services.memories.jobs.get(tenant, body.task_id)
    return _ok({"task_id": job.id, "status": _status(job)})


@router.post("/chat")
async def chat(body: Chat, request: Request, services: Provided, tenant: Tenant) -> Response:
    """Chat with a user's memories in the prompt, whole or as server-sent events."""
    asked = Asked(
        body,
        ClientIds(body.user_id, body.agent_id, body.conversation_id, body.app_id),
        (body.user_id,),
        (body.user_id,),
        body.memory_limit_number,
        body.model_name,
        (),
        body.info,
        body.tags or (),
    )
    format = MemosFormat(0, "ok")
    reply = memos_chat.streamed if body.stream else memos_chat.chat
    return await reply(asked, request, services, tenant, format)

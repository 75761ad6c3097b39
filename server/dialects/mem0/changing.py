"""Changing, deleting and feedback by mem0's clients."""

from __future__ import annotations

import ast
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from memory import InvalidMemory, Memory, NotFound
from server.dialects.deleting import delete_everything
from server.dialects.mem0.bodies import (
    DeleteMany,
    Feedback,
    Ids,
    Update,
    UpdateMany,
)
from server.dialects.mem0.replies import memory_json
from server.http.bodies import lone_surrogate
from server.http.conditions import Expected, tagged
from server.http.deps import Provided, Services, Tenant
from server.http.schemas.fields import Name

router = APIRouter()

_REMARKS = {"POSITIVE": "That is right.", "NEGATIVE": "That is wrong.", "VERY_NEGATIVE": "That is wrong."}
_MAX_FILTER_CHARS = 4_000


@router.put("/v1/memories/{memory_id}/")
@router.put("/memories/{memory_id}")
async def update(
    memory_id: str, body: Update, services: Provided, tenant: Tenant, expected: Expected, response: Response
) -> dict[str, Any]:
    """Change a memory; metadata are set key by key. Keys and values computed from its old text are removed before the
    reply."""
    memory = await services.memories.update(tenant, memory_id, overlay="set", expected=expected, **body.fields())
    tagged(response, memory)
    return memory_json(memory, text=memory.text, message="Memory updated successfully!")


@router.delete("/v1/memories/{memory_id}/")
@router.delete("/memories/{memory_id}")
async def delete(memory_id: str, services: Provided, tenant: Tenant, expected: Expected) -> dict[str, Any]:
    """Delete a memory and everything computed from it."""
    await services.memories.delete(tenant, memory_id, expected)
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
    await delete_everything(services.memories, tenant, ids.selection)
    return {"message": "Memories deleted successfully!"}


def _filters_of(text: str | None) -> dict[str, Any] | None:
    """Read filters in a query string: JSON, or what Python's own clients make of a dict that is put there. Raises
    ``InvalidMemory``."""
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
    """Return all of them, or raise ``NotFound``: a batch is not begun in vain."""
    memories = await services.memories.existing(tenant, ids)
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
        await services.memories.update(tenant, id, overlay="set", **fields)
    return {"message": f"Successfully updated {len(changes)} memories"}


@router.delete("/v1/batch/")
async def delete_many(body: DeleteMany, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete several memories."""
    memories = await _all_known(services, tenant, [item.memory_id for item in body.memories])
    gone = await services.memories.remove(tenant, memories)
    return {"message": f"Successfully deleted {len(gone)} memories"}


@router.post("/v1/feedback/")
async def feedback(body: Feedback, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Confirm or deny a memory: praise reinforces it, blame archives it. The reason is about the memory, and is not
    stored."""
    memory = await services.memories.get(tenant, body.memory_id)
    if body.feedback is not None:
        text = _REMARKS[body.feedback]
        await services.memories.feedback.give(tenant, memory.cube_id, text, memory_ids=[memory.id])
    return {"id": memory.id, "feedback": body.feedback, "feedback_reason": body.feedback_reason}


@router.get("/v1/ping/")
async def ping(tenant: Tenant) -> dict[str, Any]:
    """Confirm that the key is right; clients ask first."""
    return {"status": "ok", "org_id": tenant, "project_id": tenant, "user_email": None}

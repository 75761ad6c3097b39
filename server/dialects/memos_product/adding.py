"""Adding, and feedback, by clients of MemOS's own server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter

from memory import AddOutcome, InvalidMemory
from server.core.checks import unix_time
from server.dialects import common
from server.dialects.memos_product.bodies import (
    Add,
    Feedback,
    names_of,
)
from server.dialects.memos_product.replies import ok, task_status, type_of
from server.http.deps import Provided, Services, Tenant

router = APIRouter()


@router.post("/add")
async def add(body: Add, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Keep messages, and extract memories from them in jobs or (`sync`) at once. `memory_content` is stored as it
    is."""
    names = names_of(body.writable_cube_ids, body.mem_cube_id, body.user_id)
    if body.messages is None and body.memory_content is None:
        raise InvalidMemory("There are neither messages nor memory_content.", "messages")
    if body.is_feedback and body.messages is not None:
        text = common.messages_of(body.messages)[-1].text
        return ok("Memory feedback successfully", await _give(services, tenant, names, text))
    data = []
    for name in names:
        add = partial(_add_to, name, body, services, tenant)
        data += await common.added_to(services.memories, tenant, name, add)
    return ok("Memory added successfully", data)


async def _add_to(name: str, body: Add, services: Services, tenant: str, cube: str) -> list[dict[str, Any]]:
    said = body.said
    messages = [] if body.messages is None else common.messages_of(body.messages)
    done: list[dict[str, Any]] = []
    placed: list[AddOutcome] = []
    if body.memory_content is not None:
        fields: dict[str, Any] = {
            "owner": said.owner,
            "session": said.session,
            "tags": said.tags,
            "metadata": said.metadata,
        }
        placed = [await services.memories.add(tenant, cube, body.memory_content, kind="fact", **fields)]
    if messages and body.async_mode == "sync":
        placed += await services.memories.messages.add(tenant, cube, messages, said)
    elif messages:
        id = common.task_job_id(body.user_id, body.task_id)
        job = await services.memories.messages.queue(tenant, cube, messages, said, job_id=id)
        done.append({"cube_id": name, "task_id": body.task_id or job.id, "status": task_status(job)})
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
    """Give feedback on the memories that were retrieved, or on those in the cubes that it is about."""
    names = names_of(body.writable_cube_ids, body.mem_cube_id, body.user_id)
    at = unix_time(body.feedback_time, "feedback_time")
    ids = body.retrieved_memory_ids or []
    return ok("Feedback completed successfully", await _give(services, tenant, names, body.feedback_content, ids, at))


async def _give(
    services: Services,
    tenant: str,
    names: Sequence[str],
    text: str,
    memory_ids: Sequence[str] = (),
    at: float | None = None,
) -> list[dict[str, Any]]:
    """Give feedback to each cube, on those of the memories that are in it. Raises ``NotFound`` for ids of nobody's."""
    memories = [await services.memories.get(tenant, id) for id in dict.fromkeys(memory_ids)]
    records = []
    for name in names:
        cube = await services.memories.cubes.named(tenant, name)
        ids = [memory.id for memory in memories if memory.cube_id == cube.id]
        outcome = await services.memories.feedback.give(tenant, cube.id, text, memory_ids=ids, at=at)
        done = [{"id": action.memory_id, "action": action.action} for action in outcome.actions]
        added = [item for item in done if item["action"] == "added"]
        record = {"add": added, "update": [item for item in done if item["id"] and item not in added]}
        records.append({"cube_id": name, "task_id": outcome.id, "record": record})
    return records

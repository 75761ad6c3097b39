"""Searching, listing and history as mem0's clients ask for them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from memory import Memory
from server.core.checks import moment
from server.dialects import common
from server.dialects.common import Selection
from server.dialects.mem0.bodies import (
    List,
    Search,
)
from server.dialects.mem0.replies import memory_json, step_json
from server.http.conditions import tagged
from server.http.deps import Provided, Services, Tenant
from server.http.schemas.fields import Name

router = APIRouter()


@router.post("/v3/memories/search/")
@router.post("/v2/memories/search/")
@router.post("/search")
async def search(body: Search, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Search memories. Scores are from 0 to 1; `threshold` is the least that counts (default: any)."""
    at, offset = moment(body.reference_date, "reference_date")
    hits = await common.found(
        services.memories,
        tenant,
        body.query,
        Selection(body.selection.cubes, common.both(body.selection.filter, _tagged(body.categories))),
        min(100, body.top_k or body.limit or 10),
        floor=body.threshold or 0.0,
        at=at,
        utc_offset=offset,
    )
    return {"results": [memory_json(hit.memory, score=common.score_of(hit)) for hit in hits]}


def _tagged(categories: list[str] | None) -> dict[str, Any]:
    return {"tags": {"in": categories}} if categories else {}


async def _page(body: List, services: Services, tenant: str) -> tuple[list[Memory], int]:
    """Return one page of what is asked for, the newest first, and how many there are."""
    times = {"gte": body.start_date, "lte": body.end_date}
    span = {op: value for op, value in times.items() if value is not None}
    made = {"created_at": span} if span else {}
    place = Selection(body.selection.cubes, common.both(body.selection.filter, made, _tagged(body.categories)))
    memories = (await common.listed(services.memories, tenant, place))[::-1]
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
    """List memories in pages, newest first."""
    number, size = page or body.page or 1, page_size or body.page_size or 100
    memories, count = await _page(body.model_copy(update={"page": number, "page_size": size}), services, tenant)

    def link(to: int) -> str:
        return f"?page={to}&page_size={size}"

    return {
        "count": count,
        "next": link(number + 1) if number * size < count else None,
        "previous": link(number - 1) if number > 1 else None,
        "results": [memory_json(memory) for memory in memories],
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
    """List the newest memories of a user, an agent or a run (mem0's own server)."""
    body = List(user_id=user_id, agent_id=agent_id, run_id=run_id, page_size=top_k)
    memories, _ = await _page(body, services, tenant)
    return {"results": [memory_json(memory) for memory in memories]}


@router.get("/v1/memories/{memory_id}/")
@router.get("/memories/{memory_id}")
async def get(memory_id: str, services: Provided, tenant: Tenant, response: Response) -> dict[str, Any]:
    """Return a memory."""
    memory = await services.memories.get(tenant, memory_id)
    tagged(response, memory)
    return memory_json(memory)


@router.get("/v1/memories/{memory_id}/history/")
@router.get("/memories/{memory_id}/history")
async def history(memory_id: str, services: Provided, tenant: Tenant) -> list[dict[str, Any]]:
    """Return the changes of a memory, oldest first."""
    memory = await services.memories.get(tenant, memory_id)
    steps = await services.memories.history(tenant, memory_id)
    after: str | None = memory.text
    found = []
    for number in range(len(steps) - 1, -1, -1):
        step = steps[number]
        found.append(step_json(memory, step, number, after))
        after = step.text if step.text is not None else after
    return found[::-1]

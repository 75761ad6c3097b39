"""Searching, chat and listing as clients of MemOS's own server ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from server.core.checks import moment
from server.dialects import common, memos_chat
from server.dialects.common import OTHER_KINDS, PREFERENCES, TOOLS, ClientIds, Selection
from server.dialects.memos_chat import Asked, MemosFormat
from server.dialects.memos_product.bodies import (
    Chat,
    GetAll,
    GetMemory,
    Search,
    names_of,
)
from server.dialects.memos_product.replies import bucket, bucketed, memory_json, ok
from server.http.deps import Provided, Tenant
from server.http.schemas.fields import Text

router = APIRouter()


@router.post("/search")
async def search(body: Search, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Search each kind of memory. `relativity` is the least score that counts (default: any)."""
    names = names_of(body.readable_cube_ids, body.mem_cube_id, body.user_id)
    cubes = await services.memories.cubes.own(tenant, names)
    place = Selection(tuple(cubes), common.translated(body.filter or {}))
    at, offset = moment(body.reference_time, "reference_time")

    async def of(kinds: Sequence[str], top_k: int) -> list[dict[str, Any]]:
        hits = await common.found(
            services.memories,
            tenant,
            body.query,
            place,
            min(100, top_k),
            floor=body.relativity or 0.0,
            kinds=kinds,
            at=at,
            utc_offset=offset,
        )
        return bucketed(hits, cubes)

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
    return ok("Search completed successfully", data)


@router.post("/chat/complete")
async def chat_complete(body: Chat, request: Request, services: Provided, tenant: Tenant) -> Response:
    """Chat with the memories of the readable cubes in the prompt."""
    asked = Asked(
        body,
        ClientIds(user=body.user_id, run=body.session_id),
        names_of(body.readable_cube_ids, body.mem_cube_id, body.user_id),
        names_of(body.writable_cube_ids, body.mem_cube_id, body.user_id),
        body.top_k,
        body.model_name_or_path,
        body.history or (),
    )
    format = MemosFormat(200, "Chat completed successfully")
    return await memos_chat.chat(asked, request, services, tenant, format)


@router.get("/get_memory/{memory_id}")
async def get_memory(memory_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Return a memory."""
    return ok("Memory retrieved successfully", memory_json(await services.memories.get(tenant, memory_id)))


@router.post("/get_memory_by_ids")
async def get_memory_by_ids(
    body: Annotated[list[Text], Field(max_length=1000)], services: Provided, tenant: Tenant
) -> dict[str, Any]:
    """Return the memories with these ids; unknown ids are skipped."""
    memories = await services.memories.existing(tenant, body)
    return ok("Memories retrieved successfully", {"memories": [memory_json(memory) for memory in memories]})


@router.post("/get_memory")
async def get_memories(body: GetMemory, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """List the memories of a cube by kind, each kind in pages."""
    filter = common.translated(body.filter or {})
    if body.user_id not in (None, body.mem_cube_id):
        filter = common.both(filter, {"owner": body.user_id})
    memories = await common.listed(services.memories, tenant, Selection((body.mem_cube_id,), filter))

    def of(kinds: Sequence[str]) -> list[dict[str, Any]]:
        wanted = [memory for memory in memories if memory.kind in kinds]
        begin = 0 if body.page is None else (body.page - 1) * (body.page_size or 10)
        end = None if body.page is None and body.page_size is None else begin + (body.page_size or 10)
        return [bucket(body.mem_cube_id, [memory_json(memory) for memory in wanted[begin:end]], len(wanted))]

    data = {
        "text_mem": of(OTHER_KINDS),
        "pref_mem": of(PREFERENCES) if body.include_preference else [],
        "tool_mem": of(TOOLS) if body.include_tool_memory else [],
        "skill_mem": [],
    }
    return ok("Memories retrieved successfully", data)


@router.post("/get_all")
async def get_all(body: GetAll, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """List all memories of the user's cube, or the best ones for a query, as a graph without edges."""
    message = "Memories retrieved successfully"
    if body.memory_type != "text_mem":
        return ok(message, [])
    cubes = await services.memories.cubes.own(tenant, names_of(body.mem_cube_ids, None, body.user_id))
    data = []
    for name in cubes:
        place = Selection((name,), {})
        if body.search_query and body.search_query.strip():
            hits = await common.found(services.memories, tenant, body.search_query, place, 100)
            items = [memory_json(hit.memory, common.score_of(hit)) for hit in hits]
        else:
            items = [memory_json(memory) for memory in await common.listed(services.memories, tenant, place)]
        data.append({"cube_id": name, "memories": [{"nodes": items, "edges": [], "total_nodes": len(items)}]})
    return ok(message, data)

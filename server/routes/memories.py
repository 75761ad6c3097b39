"""Memories and cubes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from memory import Cube, Hit, Memory
from server.routes.openai import Provided, Tenant
from server.schemas import CubeAdd, CubeChange, MemoryAdd, MemoryChange, MemorySearch
from server.services import Services

router = APIRouter(prefix="/v1")


def memory_json(memory: Memory) -> dict[str, Any]:
    """A memory as the API shows it. Times are Unix seconds."""
    return {
        "object": "memory",
        "id": memory.id,
        "cube": memory.cube_id,
        "owner": memory.owner,
        "kind": memory.kind,
        "text": memory.text,
        "status": memory.status,
        "pinned": memory.pinned,
        "version": memory.version,
        "created_at": memory.created_at,
        "updated_at": memory.updated_at,
        "event_at": memory.event_at,
        "metadata": memory.metadata,
    }


def _cube_json(cube: Cube) -> dict[str, Any]:
    return {
        "object": "cube",
        "id": cube.id,
        "name": cube.name,
        "fidelity": cube.fidelity,
        "created_at": cube.created_at,
    }


def _hit_json(hit: Hit) -> dict[str, Any]:
    return {"memory": memory_json(hit.memory), "score": hit.score, "why": hit.why}


async def _forget_segments(services: Services, memories: Iterable[Memory]) -> int:
    """Remove what was computed from these texts, in every tier, before the reply."""
    return await services.engine.forget([memory.label for memory in memories])


@router.post("/memories", status_code=201)
async def add_memory(body: MemoryAdd, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Add a memory; ``{"text": "..."}`` is enough. It is on disk when the reply comes."""

    def add() -> Memory:
        cube = services.memories.default_cube(tenant).id if body.cube is None else body.cube
        return services.memories.add(
            tenant,
            cube,
            body.text,
            kind=body.kind,
            owner=body.owner,
            pinned=body.pinned,
            event_at=body.event_at,
            metadata=body.metadata,
        )

    return memory_json(await asyncio.to_thread(add))


@router.get("/memories")
async def list_memories(
    services: Provided,
    tenant: Tenant,
    cube: str | None = None,
    kind: str | None = None,
    status: Literal["active", "archived"] = "active",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: str | None = None,
) -> dict[str, Any]:
    """Memories in order of creation; ``next`` is the ``after`` of the page that follows."""
    page = await asyncio.to_thread(
        lambda: services.memories.list_memories(tenant, cube, kind=kind, status=status, limit=limit, after=after)
    )
    return {"object": "list", "data": [memory_json(item) for item in page.items], "next": page.next}


@router.post("/memories/search")
async def search_memories(body: MemorySearch, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Hybrid search in one or several cubes (default: the key's default cube)."""

    def search() -> list[Hit]:
        cubes = [body.cube] if isinstance(body.cube, str) else body.cube
        if cubes is None:
            cubes = [services.memories.default_cube(tenant).id]
        return services.memories.search(tenant, body.query, cube_ids=cubes, top_k=body.top_k, kinds=body.kinds)

    return {"object": "list", "data": [_hit_json(hit) for hit in await asyncio.to_thread(search)]}


@router.get("/memories/{memory_id}")
async def get_memory(memory_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """One memory."""
    return memory_json(await asyncio.to_thread(services.memories.get, tenant, memory_id))


@router.patch("/memories/{memory_id}")
async def change_memory(memory_id: str, body: MemoryChange, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Change fields of a memory. What was computed from its old text is removed before the reply."""

    def change() -> tuple[Memory, Memory]:
        old = services.memories.get(tenant, memory_id)
        return old, services.memories.update(tenant, memory_id, **body.model_dump(exclude_unset=True))

    old, new = await asyncio.to_thread(change)
    if old.label != new.label or new.status != "active":
        await _forget_segments(services, [old])
        services.upkeep.changed(tenant, new.cube_id)
    return memory_json(new)


@router.delete("/memories/{memory_id}")
async def delete_memory(memory_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete a memory and everything that was computed from it."""
    memory = await asyncio.to_thread(services.memories.delete, tenant, memory_id)
    removed = await _forget_segments(services, [memory])
    services.upkeep.changed(tenant, memory.cube_id)
    return {"object": "memory.deleted", "id": memory.id, "deleted": True, "segments_removed": removed}


@router.post("/cubes", status_code=201)
async def add_cube(body: CubeAdd, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Make a cube."""
    return _cube_json(await asyncio.to_thread(services.memories.create_cube, tenant, body.name, body.fidelity))


@router.get("/cubes")
async def list_cubes(services: Provided, tenant: Tenant) -> dict[str, Any]:
    """The tenant's cubes."""
    cubes = await asyncio.to_thread(services.memories.cubes, tenant)
    return {"object": "list", "data": [_cube_json(cube) for cube in cubes]}


@router.get("/cubes/{cube_id}")
async def get_cube(cube_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """A cube by id or name."""
    return _cube_json(await asyncio.to_thread(services.memories.cube, tenant, cube_id))


@router.patch("/cubes/{cube_id}")
async def change_cube(cube_id: str, body: CubeChange, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Say how exact the KV of a cube's memories must be; null: as the server says."""
    return _cube_json(await asyncio.to_thread(services.memories.set_fidelity, tenant, cube_id, body.fidelity))


@router.delete("/cubes/{cube_id}")
async def delete_cube(cube_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete a cube, its memories, and everything that was computed from them."""
    memories = await asyncio.to_thread(services.memories.delete_cube, tenant, cube_id)
    removed = await _forget_segments(services, memories)
    return {
        "object": "cube.deleted",
        "id": cube_id,
        "deleted": True,
        "memories_removed": len(memories),
        "segments_removed": removed,
    }

"""Deleting, bringing back and cubes, as clients of MemOS's own server ask for them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from memory import NotFound
from server.dialects.common import ClientIds
from server.dialects.deleting import delete_in
from server.dialects.memos_product.bodies import (
    CubeId,
    Delete,
    NewCube,
    Recover,
)
from server.dialects.memos_product.replies import ok
from server.http.deps import Provided, Tenant
from server.http.errors import ApiError

router = APIRouter()


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
        memories = await services.memories.existing(tenant, body.memory_ids)
        if body.memory_ids and not memories:
            raise NotFound("memory", body.memory_ids[0])
        memories = await services.memories.remove(tenant, memories)
    else:
        whose = ClientIds(body.user_id, run=session)
        memories = await delete_in(services.memories, tenant, body.writable_cube_ids or (), whose, body.filter)
    data = {"status": "success", "record_ids": [memory.id for memory in memories]}
    return ok("Memories deleted successfully", data)


@router.post("/recover_memory_by_record_id")
async def recover_memory(body: Recover, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Bring a deleted memory back. The record's id is the memory's."""
    memory = await services.memories.undelete(tenant, body.delete_record_id, within=body.mem_cube_id)
    return ok("Called Successfully", {"status": "success", "memory_id": memory.id})


@router.post("/create_cube")
async def create_cube(body: NewCube, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Add a cube. Its id in this dialect is its name here: the one that the client chooses, else the cube's."""
    cube = await services.memories.cubes.create(tenant, body.cube_id or body.cube_name)
    data = {"cube_id": cube.name, "cube_name": body.cube_name, "owner_id": body.owner_id}
    return ok("Cube created successfully", data)


@router.post("/exist_mem_cube_id")
async def exist_mem_cube_id(body: CubeId, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Tell if there is a cube of that name."""
    found = await services.memories.cubes.own(tenant, [body.mem_cube_id])
    return ok("Successfully", {body.mem_cube_id: bool(found)})

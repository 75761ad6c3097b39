"""Users, agents, runs and applications, as mem0's clients ask for them: listed, deleted, reset."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter

from memory import Memory, NotFound, Subject
from server.dialects import common
from server.dialects.common import Selection, iso
from server.http.deps import Provided, Tenant
from server.http.schemas.fields import Name

router = APIRouter()

_Entity = Literal["user", "agent", "run", "app"]


def _entities_of(memory: Memory, cube: str) -> list[tuple[str, str]]:
    """List who a memory belongs to; without any id, the user that its cube stands for."""
    ids = (
        ("user", memory.owner),
        ("agent", memory.agent),
        ("run", memory.session),
        ("app", memory.metadata.get("app_id")),
    )
    return [(kind, id) for kind, id in ids if isinstance(id, str)] or [("user", cube)]


@router.get("/v1/entities/")
async def entities(services: Provided, tenant: Tenant) -> dict[str, Any]:
    """List the users, agents, runs and applications that have memories."""
    cubes = {cube.id: name for name, cube in (await services.memories.cubes.own(tenant, None)).items()}
    theirs: dict[tuple[str, str], list[Memory]] = {}
    for memory in await common.listed(services.memories, tenant, Selection(None, {})):
        for entity in _entities_of(memory, cubes.get(memory.cube_id, memory.cube_id)):
            theirs.setdefault(entity, []).append(memory)
    results = [
        {
            "id": id,
            "name": id,
            "type": kind,
            "total_memories": len(memories),
            "created_at": iso(min(memory.created_at for memory in memories)),
            "updated_at": iso(max(memory.updated_at for memory in memories)),
        }
        for (kind, id), memories in sorted(theirs.items(), key=lambda item: item[0])
    ]
    return {"count": len(results), "next": None, "previous": None, "results": results}


@router.delete("/v2/entities/{kind}/{id:path}/")
async def delete_entity(kind: _Entity, id: Name, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete a user, an agent, a run or an application with all that was said and remembered, and the cube that it has
    to itself: at once and for good."""
    subject = Subject(**{{"user": "owner", "run": "session"}.get(kind, kind): id})
    cubes = await services.memories.cubes.own(tenant, [id if kind == "user" else f"{kind}:{id}"])
    memories = await services.memories.erase(tenant, subject)
    for cube in cubes.values():
        await services.memories.cubes.delete(tenant, cube.id)
    if not cubes and not memories:
        raise NotFound(kind, id)
    return {"message": "Entity deleted successfully!"}


@router.post("/reset")
async def reset(services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete all cubes of the key's tenant, for good."""
    for cube in (await services.memories.cubes.own(tenant, None)).values():
        await services.memories.cubes.delete(tenant, cube.id)
    return {"message": "All memories reset"}

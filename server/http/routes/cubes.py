"""Cubes and who may use them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from memory import Cube, Grant, Group
from server.http.conditions import NOT_MODIFIED, Expected, shown, tagged
from server.http.deps import Provided, Tenant
from server.http.schemas.fields import Name
from server.http.schemas.memories import CubeAdd, CubeChange, GrantAdd, GroupSet
from server.http.schemas.memory_replies import (
    CubeDeleted,
    CubeList,
    CubeReindexed,
    CubeReply,
    GrantDeleted,
    GrantList,
    GrantReply,
    GroupReply,
)

router = APIRouter(prefix="/v1")


def cube_json(cube: Cube, tenant: str) -> CubeReply:
    """Return a cube as the API shows it."""
    return {
        "object": "cube",
        "id": cube.id,
        "name": cube.name,
        "shared": cube.tenant != tenant,
        "fidelity": cube.fidelity,
        "revision": cube.revision,
        "created_at": cube.created_at,
    }


def _grant_json(grant: Grant) -> GrantReply:
    return {"object": "grant", "cube": grant.cube_id, "principal": grant.principal, "access": grant.access}


def _group_json(group: Group) -> GroupReply:
    return {"object": "group", "id": group.id, "name": group.name, "members": list(group.members)}


@router.post("/cubes", status_code=201)
async def add_cube(body: CubeAdd, services: Provided, tenant: Tenant, response: Response) -> CubeReply:
    """Create a cube. `fidelity` says how exact the KV of its memories must be."""
    cube = await services.memories.cubes.create(tenant, body.name, body.fidelity)
    tagged(response, cube)
    return cube_json(cube, tenant)


@router.get("/cubes")
async def list_cubes(services: Provided, tenant: Tenant) -> CubeList:
    """List the key's cubes, and those that others share with it."""
    cubes = await services.memories.cubes.all(tenant)
    return {"object": "list", "data": [cube_json(cube, tenant) for cube in cubes]}


@router.get("/cubes/{cube_id}", response_model=CubeReply, responses=NOT_MODIFIED)
async def get_cube(
    cube_id: Name, services: Provided, tenant: Tenant, request: Request, response: Response
) -> Response | CubeReply:
    """Return a cube by id or name. Its `ETag` is its revision; `If-None-Match` makes an unchanged one a 304."""
    cube = await services.memories.cubes.get(tenant, cube_id)
    return shown(request, response, cube, cube_json(cube, tenant))


@router.patch("/cubes/{cube_id}")
async def change_cube(
    cube_id: Name, body: CubeChange, services: Provided, tenant: Tenant, expected: Expected, response: Response
) -> CubeReply:
    """Set how exact the KV of a cube's memories must be; null means as the server is set."""
    cube = await services.memories.cubes.set_fidelity(tenant, cube_id, body.fidelity, expected)
    tagged(response, cube)
    return cube_json(cube, tenant)


@router.delete("/cubes/{cube_id}")
async def delete_cube(cube_id: Name, services: Provided, tenant: Tenant, expected: Expected) -> CubeDeleted:
    """Delete a cube, its memories, and everything computed from them, at once and for good."""
    memories, removed = await services.memories.cubes.delete(tenant, cube_id, expected)
    return {
        "object": "cube.deleted",
        "id": cube_id,
        "deleted": True,
        "memories_removed": len(memories),
        "segments_removed": removed,
    }


@router.post("/cubes/{cube_id}/reindex")
async def reindex_cube(cube_id: Name, services: Provided, tenant: Tenant) -> CubeReindexed:
    """Rebuild the full text, vectors and names of a cube from its memories."""
    n = await services.memories.cubes.reindex(tenant, cube_id)
    return {"object": "cube.reindexed", "id": cube_id, "memories": n}


@router.get("/cubes/{cube_id}/grants")
async def list_grants(cube_id: Name, services: Provided, tenant: Tenant) -> GrantList:
    """List the tenants and groups that may use a cube."""
    grants = await services.memories.cubes.grants(tenant, cube_id)
    return {"object": "list", "data": [_grant_json(grant) for grant in grants]}


@router.post("/cubes/{cube_id}/grants", status_code=201)
async def share_cube(cube_id: Name, body: GrantAdd, services: Provided, tenant: Tenant) -> GrantReply:
    """Let another tenant, or a group (`group:NAME`), read or change a cube."""
    grant = await services.memories.cubes.share(tenant, cube_id, body.principal, body.access)
    return _grant_json(grant)


@router.delete("/cubes/{cube_id}/grants/{principal}")
async def unshare_cube(cube_id: Name, principal: Name, services: Provided, tenant: Tenant) -> GrantDeleted:
    """Take a grant back."""
    await services.memories.cubes.unshare(tenant, cube_id, principal)
    return {"object": "grant.deleted", "principal": principal, "deleted": True}


@router.put("/groups/{name}")
async def set_group(name: Name, body: GroupSet, services: Provided, tenant: Tenant) -> GroupReply:
    """Create a group of tenants, or replace its members."""
    return _group_json(await services.memories.cubes.set_group(tenant, name, body.members))


@router.get("/groups/{name}")
async def get_group(name: Name, services: Provided, tenant: Tenant) -> GroupReply:
    """Return a group by name or id."""
    return _group_json(await services.memories.cubes.group(tenant, name))

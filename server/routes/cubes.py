"""Cubes and who may use them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from memory import Cube, Grant, Group
from server.conditions import Expected, shown, tagged
from server.routes.openai import Provided, Tenant
from server.schemas import CubeAdd, CubeChange, GrantAdd, GroupSet, Name

router = APIRouter(prefix="/v1")


def cube_json(cube: Cube, tenant: str) -> dict[str, Any]:
    """A cube as the API shows it."""
    return {
        "object": "cube",
        "id": cube.id,
        "name": cube.name,
        "shared": cube.tenant != tenant,
        "fidelity": cube.fidelity,
        "revision": cube.revision,
        "created_at": cube.created_at,
    }


def _grant_json(grant: Grant) -> dict[str, Any]:
    return {"object": "grant", "cube": grant.cube_id, "principal": grant.principal, "access": grant.access}


def _group_json(group: Group) -> dict[str, Any]:
    return {"object": "group", **asdict(group)}


@router.post("/cubes", status_code=201)
async def add_cube(body: CubeAdd, services: Provided, tenant: Tenant, response: Response) -> dict[str, Any]:
    """Add a cube; ``fidelity`` says how exact the KV of its memories must be."""
    cube = await asyncio.to_thread(services.memories.cubes.create, tenant, body.name, body.fidelity)
    tagged(response, cube)
    return cube_json(cube, tenant)


@router.get("/cubes")
async def list_cubes(services: Provided, tenant: Tenant) -> dict[str, Any]:
    """The key's cubes, and those that others share with it."""
    cubes = await asyncio.to_thread(services.memories.cubes.all, tenant)
    return {"object": "list", "data": [cube_json(cube, tenant) for cube in cubes]}


@router.get("/cubes/{cube_id}", response_model=None)
async def get_cube(
    cube_id: Name, services: Provided, tenant: Tenant, request: Request, response: Response
) -> Response | dict[str, Any]:
    """A cube by id or name; its ``ETag`` is its revision."""
    cube = await asyncio.to_thread(services.memories.cube, tenant, cube_id)
    return shown(request, response, cube, cube_json(cube, tenant))


@router.patch("/cubes/{cube_id}")
async def change_cube(
    cube_id: Name, body: CubeChange, services: Provided, tenant: Tenant, expected: Expected, response: Response
) -> dict[str, Any]:
    """Say how exact the KV of a cube's memories must be; null: as the server says."""
    cube = await asyncio.to_thread(services.memories.cubes.set_fidelity, tenant, cube_id, body.fidelity, expected)
    tagged(response, cube)
    return cube_json(cube, tenant)


@router.delete("/cubes/{cube_id}")
async def delete_cube(cube_id: Name, services: Provided, tenant: Tenant, expected: Expected) -> dict[str, Any]:
    """Delete a cube, its memories, and everything that was computed from them, at once and for good."""
    memories, removed = await services.remembering.delete_cube(tenant, cube_id, expected)
    return {
        "object": "cube.deleted",
        "id": cube_id,
        "deleted": True,
        "memories_removed": len(memories),
        "segments_removed": removed,
    }


@router.post("/cubes/{cube_id}/reindex")
async def reindex_cube(cube_id: Name, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Make a cube's full text, vectors and names anew from its memories."""
    n = await asyncio.to_thread(services.memories.index.rebuild, tenant, cube_id)
    return {"object": "cube.reindexed", "id": cube_id, "memories": n}


@router.get("/cubes/{cube_id}/grants")
async def list_grants(cube_id: Name, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Who else may use a cube."""
    grants = await asyncio.to_thread(services.memories.cubes.grants, tenant, cube_id)
    return {"object": "list", "data": [_grant_json(grant) for grant in grants]}


@router.post("/cubes/{cube_id}/grants", status_code=201)
async def share_cube(cube_id: Name, body: GrantAdd, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Let another tenant, or a group (``group:NAME``), read or change a cube."""
    grant = await asyncio.to_thread(services.memories.cubes.share, tenant, cube_id, body.principal, body.access)
    return _grant_json(grant)


@router.delete("/cubes/{cube_id}/grants/{principal}")
async def unshare_cube(cube_id: Name, principal: Name, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Take a grant back."""
    await asyncio.to_thread(services.memories.cubes.unshare, tenant, cube_id, principal)
    return {"object": "grant.deleted", "principal": principal, "deleted": True}


@router.put("/groups/{name}")
async def set_group(name: Name, body: GroupSet, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Make a group of tenants, or change who is in it."""
    return _group_json(await asyncio.to_thread(services.memories.cubes.set_group, tenant, name, body.members))


@router.get("/groups/{name}")
async def get_group(name: Name, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """A group by name or id."""
    return _group_json(await asyncio.to_thread(services.memories.cubes.group, tenant, name))

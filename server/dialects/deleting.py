"""Deleting in the dialects of other memory servers. Nothing is left of everything that somebody has; some of the
memories can be brought back for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from memory import Memory, Subject
from server.core.checks import check_filter
from server.core.memories import MemoryService
from server.dialects import common
from server.dialects.common import ClientIds, Selection

# What a filter may ask for that names somebody, in the side store's words and in the clients'.
_IDS = {
    "owner": "owner",
    "user_id": "owner",
    "agent": "agent",
    "agent_id": "agent",
    "session": "session",
    "run_id": "session",
    "session_id": "session",
    "conversation_id": "session",
    "metadata.app_id": "app",
}


async def delete_everything(
    memories: MemoryService, tenant: str, place: Selection, within: tuple[str, ...] | None = None
) -> list[Memory]:
    """Delete all memories there, whatever their status. If nothing but ids say which, all that was said goes as well,
    at once and for good; else the memories can be brought back one by one. ``within`` are names of cubes that nothing
    outside of is touched. Raises ``InvalidMemory`` for a bad filter."""
    check_filter(place.filter)
    ids = _ids_of(place.filter)
    if ids is None:
        wanted = await common.listed(memories, tenant, place, ("active", "archived", "merged"))
        return await memories.remove(tenant, wanted)
    if within is None and place.cubes is not None:
        if "owner" in ids:  # of somebody else, in a user's cube
            within = place.cubes
        else:
            (ids["owner"],) = place.cubes
    return await memories.erase(tenant, Subject(**ids), within)


async def delete_in(
    memories: MemoryService, tenant: str, cubes: Sequence[str], whose: ClientIds, filter: Mapping[str, Any] | None
) -> list[Memory]:
    """``delete_everything`` of ``whose`` that a filter lets through, in the cubes of these names; without names in all.
    Who is asked for by the name of one of the cubes has all that is in it."""
    if not cubes:
        return await delete_everything(memories, tenant, common.limited(common.selection_of(whose, filter)))
    place = common.selection_of(replace(whose, user=None), filter)
    owners = [user for user in (whose.user, *(place.cubes or ())) if user is not None and user not in cubes]
    place = Selection(tuple(cubes), common.both(place.filter, *({"owner": user} for user in owners)))
    return await delete_everything(memories, tenant, place, within=tuple(cubes))


def _ids_of(filter: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the ids that a filter asks for; None where it asks for anything else, or for two of a kind."""
    found: dict[str, str] = {}
    for key, value in filter.items():
        if key.lower() == "and" and isinstance(value, list):
            parts = [_ids_of(part) for part in value]
        else:
            parts = [{_IDS[key]: value} if key in _IDS and isinstance(value, str) and value != "*" else None]
        for part in parts:
            if part is None or any(found.get(name, id) != id for name, id in part.items()):
                return None
            found |= part
    return found

"""Deleting in the dialects of other memory servers: of everything that somebody has, nothing is left; some memories of
it can be brought back for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from memory import Memory, Subject
from memory.search.filters import parse_filter
from server.routes import peers
from server.routes.peers import Where, Whose
from server.services import Services

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
    services: Services, tenant: str, place: Where, within: tuple[str, ...] | None = None
) -> list[Memory]:
    """Delete all memories there, whatever their status. Where nothing but ids say which, all that was said goes as
    well, at once and for good; else the memories can be brought back one by one. ``within`` are names of cubes that
    nothing outside of is touched. Raises ``InvalidMemory`` for a bad filter."""
    parse_filter(place.filter)
    ids = _ids_of(place.filter)
    if ids is None:
        memories = await peers.listed(services, tenant, place, ("active", "archived", "merged"))
        return await services.remembering.remove(tenant, memories)
    if within is None and place.cubes is not None:
        if "owner" in ids:  # of somebody else, in a user's cube
            within = place.cubes
        else:
            (ids["owner"],) = place.cubes
    return await services.remembering.erase(tenant, Subject(**ids), within)


async def delete_in(
    services: Services, tenant: str, cubes: Sequence[str], whose: Whose, filter: Mapping[str, Any] | None
) -> list[Memory]:
    """``delete_everything`` of ``whose`` that a filter lets through, in the cubes of these names; without names in all.
    Who is asked for by the name of one of the cubes has all that is in it."""
    if not cubes:
        return await delete_everything(services, tenant, peers.limited(peers.where(whose, filter)))
    place = peers.where(replace(whose, user=None), filter)
    owners = [user for user in (whose.user, *(place.cubes or ())) if user is not None and user not in cubes]
    place = Where(tuple(cubes), peers.both(place.filter, *({"owner": user} for user in owners)))
    return await delete_everything(services, tenant, place, within=tuple(cubes))


def _ids_of(filter: Mapping[str, Any]) -> dict[str, str] | None:
    """The ids that a filter asks for; None where it asks for anything else, or for two of a kind."""
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

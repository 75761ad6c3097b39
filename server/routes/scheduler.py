"""The scheduler: what it expects, what it has done, and what applications can tell it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from engine.base import ChatMessage
from scheduler import Foresight, advice_summary
from server.errors import ApiError
from server.routes.openai import Provided, Tenant, chat_messages
from server.schemas import MemoryOptions, Name, Prefetch, SceneHint
from server.services import Services

router = APIRouter(prefix="/v1")

# How often a stream of events looks whether the server is to end.
_LOOK_EVERY_S = 1.0


def _foresight(services: Services) -> Foresight:
    if services.foresight is None:
        raise ApiError(409, "This server predicts nothing: scheduler.predictor is off.", "scheduler_off")
    return services.foresight


@router.get("/scheduler")
async def state(services: Provided, tenant: Tenant, events: Annotated[int, Query(ge=0, le=256)] = 20) -> dict[str, Any]:
    """Queues, the predictor's report card, what preloading has brought, and the last events."""
    upkeep, preloads = services.upkeep.stats(), services.catalogue.stats().preloads
    jobs = await asyncio.to_thread(services.memories.jobs.counts)
    found: dict[str, Any] = {
        "object": "scheduler",
        "predictor": None,
        "upkeep": asdict(upkeep),
        "jobs": jobs,
        "preloads": {**asdict(preloads), "saved_s": round(preloads.saved_s, 4)},
        "events": [],
    }
    if services.foresight is not None:
        scenes, preloader = services.foresight.stats()
        found["predictor"] = services.foresight.report()
        found["preloader"] = asdict(preloader)
        found["sources"] = dict(scenes.sources)
        found["events"] = [_shown(event) for event in services.foresight.events.last(events, tenant)]
    return found


@router.get("/scheduler/events")
async def events(services: Provided, tenant: Tenant) -> StreamingResponse:
    """What the scheduler does, as server-sent events, from now on."""
    log = _foresight(services).events

    async def lines() -> AsyncIterator[str]:
        yield ": events of the scheduler\n"
        idle_s = 0.0
        async with aclosing(log.follow(tenant)) as following:
            pending = asyncio.ensure_future(anext(following))
            try:
                while not services.draining:
                    await asyncio.wait({pending}, timeout=_LOOK_EVERY_S)
                    if pending.done():
                        event = _shown(pending.result())
                        pending = asyncio.ensure_future(anext(following))
                        yield f"event: {event['event']}\ndata: {json.dumps(event)}\n\n"
                        idle_s = 0.0
                    elif (idle_s := idle_s + _LOOK_EVERY_S) >= services.config.server.sse_ping_s:
                        yield ": ping\n"
                        idle_s = 0.0
            finally:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)

    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    )


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "tenant"}


@router.get("/cubes/{cube_id}/plan")
async def plan(
    cube_id: Name, services: Provided, tenant: Tenant, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> dict[str, Any]:
    """Whether it pays to keep the keys and values of a cube's memories on this machine: seconds to build, bytes, uses
    expected, and from how many uses on."""
    foresight = _foresight(services)
    cube = await services.remembering.cube_id(tenant, cube_id)
    page = await asyncio.to_thread(lambda: services.memories.list_memories(tenant, cube, limit=limit))
    try:
        found = foresight.advisor.advise(tenant, cube, page.items, services.config.cache.high_share)
    except ValueError as error:
        raise ApiError(409, f"No advice: {error} (cache.weigh_loading).", "not_measured") from error
    return {
        "object": "plan",
        "cube": cube,
        "summary": advice_summary(found),
        "data": [asdict(advice) for advice in found],
    }


@router.post("/scenes/hint")
async def hint(body: SceneHint, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """An application says what is coming; segments of memories near to that are brought up."""
    cube = await services.remembering.cube_id(tenant, body.cube)
    expected = await _foresight(services).hint(tenant, cube, body.text)
    return {"object": "scene.hint", "cube": cube, "segments": expected}


@router.post("/prefetch")
async def prefetch(body: Prefetch, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Somebody is typing: what the unfinished message finds is brought up, and while nobody waits the prompt with these
    memories is computed, so that the turn is exact and quick if it finds them too. The text is kept nowhere."""
    cube = await services.remembering.cube_id(tenant, body.cube)
    top_k = services.config.memory.top_k if body.top_k is None else body.top_k
    expected = await _foresight(services).typing(tenant, cube, body.text, top_k)
    messages = (*chat_messages(body.messages), ChatMessage("user", body.text))
    try:
        prompt = await services.chat.expected(tenant, messages, MemoryOptions(cube=cube, top_k=top_k))
    except ValueError as error:
        raise ApiError(400, str(error), "invalid_messages", param="messages") from error
    if prompt is not None:
        services.upkeep.expect(tenant, cube, prompt)
    return {"object": "prefetch", "cube": cube, "segments": expected}

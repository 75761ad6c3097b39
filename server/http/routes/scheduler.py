"""The scheduler: what it expects, what it has done, and what applications can tell it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from engine.base import ChatMessage
from kvcache import PreloadStats
from scheduler import Advice, Foresight, PreloaderStats, advice_summary
from server.core.generation import RecallOptions
from server.http.deps import Provided, Services, Tenant
from server.http.describing import documented
from server.http.errors import ApiError
from server.http.routes.ops import upkeep_json
from server.http.schemas.fields import Name
from server.http.schemas.memories import Prefetch, SceneHint
from server.http.schemas.ops_replies import (
    AdviceReply,
    HintReply,
    PlanReply,
    PrefetchReply,
    PreloaderReply,
    PreloadsReply,
    SchedulerReply,
)

router = APIRouter(prefix="/v1")

# How often a stream of events looks whether the server is to end.
_LOOK_EVERY_S = 1.0


def _foresight(services: Services) -> Foresight:
    if services.foresight is None:
        raise ApiError(409, "This server predicts nothing: scheduler.predictor is off.", "scheduler_off")
    return services.foresight


@router.get("/scheduler")
async def state(services: Provided, tenant: Tenant, events: Annotated[int, Query(ge=0, le=256)] = 20) -> SchedulerReply:
    """Return the queues, the predictor's report card, what preloading has saved, and the last events."""
    upkeep, preloads = services.upkeep.stats(), services.catalogue.stats().preloads
    jobs = await asyncio.to_thread(services.memories.jobs.counts)
    found: SchedulerReply = {
        "object": "scheduler",
        "predictor": None,
        "upkeep": upkeep_json(upkeep),
        "jobs": jobs,
        "preloads": _preloads_json(preloads),
        "events": [],
    }
    if services.foresight is not None:
        scenes, preloader = services.foresight.stats()
        found["predictor"] = services.foresight.report()
        found["preloader"] = _preloader_json(preloader)
        found["sources"] = dict(scenes.sources)
        found["events"] = [_shown(event) for event in services.foresight.events.last(events, tenant)]
    return found


@router.get("/scheduler/events", response_class=StreamingResponse, responses=documented("text/event-stream"))
async def events(services: Provided, tenant: Tenant) -> StreamingResponse:
    """Stream what the scheduler does from now on, as server-sent events."""
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


def _preloads_json(stats: PreloadStats) -> PreloadsReply:
    return {
        "segments": stats.segments,
        "bytes": stats.bytes,
        "used_bytes": stats.used_bytes,
        "wasted_bytes": stats.wasted_bytes,
        "saved_s": round(stats.saved_s, 4),
    }


def _preloader_json(stats: PreloaderStats) -> PreloaderReply:
    return {
        "waiting": stats.waiting,
        "offered": stats.offered,
        "moved": stats.moved,
        "moved_bytes": stats.moved_bytes,
        "cancelled": stats.cancelled,
        "expired": stats.expired,
        "refused": stats.refused,
        "failures": stats.failures,
    }


def _advice_json(advice: Advice) -> AdviceReply:
    return {
        "memory_id": advice.memory_id,
        "tokens": advice.tokens,
        "bytes": advice.bytes,
        "build_s": advice.build_s,
        "compute_s": advice.compute_s,
        "load_s": advice.load_s,
        "saved_s": advice.saved_s,
        "expected_uses": advice.expected_uses,
        "break_even_uses": advice.break_even_uses,
        "activated": advice.activated,
        "verdict": advice.verdict,
    }


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "tenant"}


@router.get("/cubes/{cube_id}/plan")
async def plan(
    cube_id: Name, services: Provided, tenant: Tenant, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> PlanReply:
    """Advise if it pays to keep the keys and values of a cube's memories on this machine: seconds to build, bytes,
    expected uses, and the number of uses that pays for it."""
    foresight = _foresight(services)
    cube = await services.memories.cubes.id_of(tenant, cube_id)
    page = await services.memories.page(tenant, cube, limit=limit)
    try:
        found = foresight.advisor.advise(tenant, cube, page.items, services.config.cache.high_share)
    except ValueError as error:
        raise ApiError(409, f"No advice: {error} (cache.weigh_loading).", "not_measured") from error
    return {
        "object": "plan",
        "cube": cube,
        "summary": advice_summary(found),
        "data": [_advice_json(advice) for advice in found],
    }


@router.post("/scenes/hint")
async def hint(body: SceneHint, services: Provided, tenant: Tenant) -> HintReply:
    """Announce what is coming, so that segments of memories near to it are preloaded."""
    cube = await services.memories.cubes.id_of(tenant, body.cube)
    expected = await _foresight(services).hint(tenant, cube, body.text)
    return {"object": "scene.hint", "cube": cube, "segments": expected}


@router.post("/prefetch")
async def prefetch(body: Prefetch, services: Provided, tenant: Tenant) -> PrefetchReply:
    """Announce a message that somebody is typing. Segments of the memories that it finds are preloaded, and while
    nobody waits the prompt with these memories is computed, so that the turn is quick if it finds them too. The text is
    not stored."""
    cube = await services.memories.cubes.id_of(tenant, body.cube)
    top_k = services.config.memory.top_k if body.top_k is None else body.top_k
    expected = await _foresight(services).typing(tenant, cube, body.text, top_k)
    messages = (*(message.as_said for message in body.messages), ChatMessage("user", body.text))
    prompt = await services.chat.expected(tenant, messages, RecallOptions(cubes=(cube,), top_k=top_k))
    if prompt is not None:
        services.upkeep.expect(tenant, cube, prompt)
    return {"object": "prefetch", "cube": cube, "segments": expected}

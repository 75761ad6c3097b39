"""What is said of memories, and what it changed."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from memory import FeedbackOutcome
from memory.checks import checked_time
from server.routes.openai import Provided, Tenant
from server.schemas import FeedbackAdd

router = APIRouter(prefix="/v1")


def feedback_json(outcome: FeedbackOutcome) -> dict[str, Any]:
    """Feedback as the API shows it."""
    return {
        "object": "feedback",
        "id": outcome.id,
        "cube": outcome.cube_id,
        "text": outcome.text,
        "at": outcome.at,
        "actions": [{"action": item.action, "memory": item.memory_id} for item in outcome.actions],
    }


@router.post("/feedback", status_code=201)
async def give_feedback(body: FeedbackAdd, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Confirm, correct or deny memories in plain words, or with the text that they should have had. What was computed
    from those that it changed is removed before the reply."""
    at = None if body.at is None else checked_time(body.at, "at")[0]
    outcome = await services.remembering.feedback(
        tenant, body.cube, body.text, memory_ids=body.memory_ids, corrected=body.corrected, at=at
    )
    return feedback_json(outcome)


@router.get("/feedback")
async def list_feedback(
    services: Provided,
    tenant: Tenant,
    cube: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> dict[str, Any]:
    """The last feedback on a cube, the newest first."""
    id = await services.remembering.cube_id(tenant, cube)
    found = await asyncio.to_thread(services.memories.feedback.all, tenant, id, limit)
    return {"object": "list", "data": [feedback_json(outcome) for outcome in found]}

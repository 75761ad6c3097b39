"""Feedback on memories, and what it changed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from memory import FeedbackOutcome
from server.core.checks import unix_time
from server.http.deps import Provided, Tenant
from server.http.schemas.memories import FeedbackAdd
from server.http.schemas.memory_replies import FeedbackList, FeedbackReply

router = APIRouter(prefix="/v1")


def feedback_json(outcome: FeedbackOutcome) -> FeedbackReply:
    """Return feedback as the API shows it."""
    return {
        "object": "feedback",
        "id": outcome.id,
        "cube": outcome.cube_id,
        "text": outcome.text,
        "at": outcome.at,
        "actions": [{"action": item.action, "memory": item.memory_id} for item in outcome.actions],
    }


@router.post("/feedback", status_code=201)
async def give_feedback(body: FeedbackAdd, services: Provided, tenant: Tenant) -> FeedbackReply:
    """Confirm, correct or deny memories in plain words, or with `corrected`, the text that they should have. Keys and
    values computed from changed memories are removed before the reply."""
    at = unix_time(body.at, "at")
    outcome = await services.memories.feedback.give(
        tenant, body.cube, body.text, memory_ids=body.memory_ids, corrected=body.corrected, at=at
    )
    return feedback_json(outcome)


@router.get("/feedback")
async def list_feedback(
    services: Provided,
    tenant: Tenant,
    cube: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> FeedbackList:
    """List the last feedback on a cube, newest first."""
    found = await services.memories.feedback.latest(tenant, cube, limit)
    return {"object": "list", "data": [feedback_json(outcome) for outcome in found]}

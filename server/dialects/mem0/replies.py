"""Replies to mem0's clients."""

from __future__ import annotations

from typing import Any

from memory import Change, Memory
from server.dialects.common import iso
from server.dialects.mem0.bodies import (
    NEVER,
)

_EVENTS = {
    "added": "ADD",
    "superseded": "ADD",
    "outdated": "ADD",
    "merged": "UPDATE",
    "reinforced": "NONE",
    "deleted": "DELETE",
    "asked": "NONE",
}


def _date(expires: float | None) -> str | None:
    """Return the last day before a time of expiry."""
    if expires is None or expires >= NEVER:
        return None
    return (iso(expires - 1) or "")[:10] or None


def memory_json(memory: Memory, **more: Any) -> dict[str, Any]:
    metadata = dict(memory.metadata)
    return {
        "id": memory.id,
        "memory": memory.text,
        "user_id": memory.owner,
        "agent_id": memory.agent,
        "run_id": memory.session,
        "app_id": metadata.pop("app_id", None),
        "metadata": metadata or None,
        "categories": list(memory.tags),
        "created_at": iso(memory.created_at),
        "updated_at": iso(memory.updated_at),
        "expiration_date": _date(memory.expires_at),
        **more,
    }


def placed_json(action: str, memory: Memory) -> dict[str, Any]:
    return {"id": memory.id, "memory": memory.text, "event": _EVENTS.get(action, action.upper())}


def event_json(
    id: str, status: str, created: float, ended: float | None, results: Any, error: str | None = None
) -> dict[str, Any]:
    return {
        "id": id,
        "event_type": "ADD",
        "status": status,
        "results": results,
        "error": error,
        "created_at": iso(created),
        "completed_at": iso(ended),
        "latency": None if ended is None else round((ended - created) * 1e3, 3),
    }


def step_json(memory: Memory, step: Change, number: int, after: str | None) -> dict[str, Any]:
    events = {"added": "ADD", "updated": "UPDATE", "changed": "UPDATE", "deleted": "DELETE"}
    return {
        "id": f"{memory.id}:{number}",
        "memory_id": memory.id,
        "old_memory": step.text,
        "new_memory": after,
        "event": events.get(step.action, step.action.upper()),
        "user_id": memory.owner,
        "created_at": iso(memory.created_at),
        "updated_at": iso(step.at),
    }

"""Replies to clients of MemOS's own server: an envelope of code, message and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory import Cube, Hit, Job, Memory
from server.dialects import common
from server.dialects.common import iso

_TYPES = {
    "preference": "PreferenceMemory",
    "instruction": "PreferenceMemory",
    "tool": "ToolTrajectoryMemory",
    "profile": "UserMemory",
}
_TASKS = {"running": "in_progress"}


def type_of(memory: Memory) -> str:
    """Return the name of a memory's kind in MemOS."""
    return _TYPES.get(memory.kind, "LongTermMemory")


def status_of(memory: Memory) -> str:
    """Return the name of a memory's status in MemOS."""
    return {"active": "activated", "merged": "archived"}.get(memory.status, memory.status)


def ok(message: str, data: Any) -> dict[str, Any]:
    return {"code": 200, "message": message, "data": data}


def task_status(job: Job) -> str:
    return _TASKS.get(job.status, job.status)


def memory_json(memory: Memory, relativity: float | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "id": memory.id,
        "memory": memory.text,
        "memory_type": type_of(memory),
        "status": status_of(memory),
        "user_id": memory.owner,
        "session_id": memory.session,
        "tags": list(memory.tags),
        "info": memory.metadata,
        "created_at": iso(memory.created_at),
        "updated_at": iso(memory.updated_at),
        "version": memory.version,
    }
    if relativity is not None:
        metadata["relativity"] = relativity
    return {"id": memory.id, "memory": memory.text, "metadata": metadata, "ref_id": f"[{memory.id}]"}


def bucket(cube: str, items: list[dict[str, Any]], total: int | None = None) -> dict[str, Any]:
    return {"cube_id": cube, "memories": items, "total_nodes": len(items) if total is None else total}


def bucketed(hits: Sequence[Hit], cubes: dict[str, Cube]) -> list[dict[str, Any]]:
    """Sort hits by the cube they are in, best first in each."""
    return [
        bucket(name, [memory_json(hit.memory, common.score_of(hit)) for hit in hits if hit.memory.cube_id == cube.id])
        for name, cube in cubes.items()
    ]

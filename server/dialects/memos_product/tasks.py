"""Jobs as clients of MemOS's own server ask for them: its scheduler's tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query

from memory import Job, NotFound
from server.dialects import common
from server.dialects.memos_product.replies import ok, task_status
from server.http.deps import Provided, Tenant
from server.http.schemas.fields import Name

router = APIRouter()


def _joint_status(jobs: Sequence[Job]) -> str:
    """Return the status of a task of several jobs: how far the worst of them is."""
    found = {task_status(job) for job in jobs}
    order = ("failed", "in_progress", "waiting", "cancelled", "completed")
    return next(status for status in order if status in found)


def _summary(jobs: Sequence[Job]) -> dict[str, int]:
    counts = dict.fromkeys(("waiting", "in_progress", "pending", "completed", "failed", "cancelled"), 0)
    for job in jobs:
        counts[task_status(job)] += 1
    return {**counts, "total": len(jobs)}


@router.get("/scheduler/status")
async def scheduler_status(
    services: Provided, tenant: Tenant, user_id: Name, task_id: str | None = None
) -> dict[str, Any]:
    """Return the status of a task, by the id it was given or by the client's own; or of all that were added for a
    user."""
    if task_id is None:
        jobs = await common.jobs_of(services.memories, tenant, user=user_id)
        data = [{"task_id": job.id, "status": task_status(job)} for job in jobs]
    else:
        jobs = await common.jobs_of(services.memories, tenant, task=task_id)
        if not jobs:
            raise NotFound("task", task_id)
        data = [{"task_id": task_id, "status": _joint_status(jobs)}]
    return ok("Memory get status successfully", data)


@router.get("/scheduler/allstatus")
async def scheduler_allstatus(services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Count the key's jobs by status."""
    summary = _summary(await common.jobs_of(services.memories, tenant))
    data = {"scheduler_summary": summary, "all_tasks_summary": summary}
    return ok("Scheduler status summary retrieved successfully", data)


@router.get("/scheduler/task_queue_status")
async def task_queue_status(services: Provided, tenant: Tenant, user_id: Name) -> dict[str, Any]:
    """Count a user's jobs that are being done, and those that wait."""
    summary = _summary(await common.jobs_of(services.memories, tenant, user=user_id))
    pending, remaining = summary["in_progress"], summary["waiting"]
    data = {
        "user_id": user_id,
        "user_name": None,
        "mem_cube_id": None,
        "stream_keys": ["messages"],
        "users_count": 1 if pending or remaining else 0,
        "pending_tasks_count": pending,
        "remaining_tasks_count": remaining,
        "pending_tasks_detail": [f"messages:{pending}"],
        "remaining_tasks_detail": [f"messages:{remaining}"],
    }
    return ok("Scheduler task queue status retrieved successfully", data)


@router.post("/scheduler/wait")
async def scheduler_wait(
    services: Provided, tenant: Tenant, user_name: Name, timeout_seconds: Annotated[float, Query(ge=0, le=600)] = 120.0
) -> dict[str, Any]:
    """Wait until all that was added for a user is done."""
    begin = time.monotonic()
    running = 0
    for job in reversed(await common.jobs_of(services.memories, tenant, user=user_name)):
        left = max(0.0, timeout_seconds - (time.monotonic() - begin))
        if not job.ended and not (await services.memories.jobs.wait(tenant, job.id, left)).ended:
            running += 1
    data = {
        "running_tasks": running,
        "waited_seconds": round(time.monotonic() - begin, 3),
        "timed_out": running > 0,
        "user_name": user_name,
    }
    return ok("timeout" if running else "idle", data)
